"""A transformer that rewrites texts: an encoder reads one, a decoder writes another, a character at a time.

python -m fairlead_workloads.seq2seq_transformer --epochs=4              trains here, alone, on dates and numbers
python -m fairlead_workloads.seq2seq_transformer --data=pairs.tsv        ... on a table with columns source and answer
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData, BadInput
from fairlead.spec import MeasureSpec
from fairlead.training import Best, autocast, clip, keep, parallel, restore, warmup_cosine
from fairlead.workload import Context, Params, Predictor, Rows

PAD, BEGIN, END, UNKNOWN = range(4)
NUM_MARKS = 4
LONGEST = 1000
"""Characters of a source or an answer; attention looks at all pairs of them."""
Texts = Sequence[str] | np.ndarray
EXACT = MeasureSpec(name="exact match", low=0, high=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``seq2seq_transformer.toml`` says the same to the platform, and a test compares the two."""

    width: int = 48
    heads: int = 4
    layers: int = 2
    dropout: float = 0.0
    lr: float = 4e-3
    weight_decay: float = 0.01
    beams: int = 3
    epochs: int = 8
    batch_size: int = 32


class Rewriter(nn.Module):
    """Encoder and decoder of torch, with one table of characters for both and for what is written."""

    def __init__(self, *, symbols: int, width: int, heads: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(symbols, width, padding_idx=PAD)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        form: dict[str, Any] = {"dim_feedforward": 4 * width, "dropout": dropout, "activation": "gelu"}
        form |= {"batch_first": True, "norm_first": True}  # normalised before each part, it trains at higher rates
        encoder = nn.TransformerEncoderLayer(width, heads, **form)
        self.encoder = nn.TransformerEncoder(encoder, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        decoder = nn.TransformerDecoderLayer(width, heads, **form)
        self.decoder = nn.TransformerDecoder(decoder, layers, nn.LayerNorm(width))
        for weight in (*self.encoder.parameters(), *self.decoder.parameters()):
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)  # torch builds layers as copies of one; drawn anew, they differ

    def forward(self, sources: Tensor, answers: Tensor) -> Tensor:
        """Logits of what follows each character of ``answers``, shape (rows, length, symbols): teacher forcing."""
        return self.decode(answers, self.encode(sources), sources)

    def encode(self, sources: Tensor) -> Tensor:
        """What the encoder makes of each character, shape (rows, length, width)."""
        return self.encoder(self.embed(sources), src_key_padding_mask=sources == PAD)

    def decode(self, answers: Tensor, memory: Tensor, sources: Tensor) -> Tensor:
        """Logits, as ``forward``."""
        length = answers.shape[1]
        # True hides: a character sees itself and those before it.
        later = torch.ones(length, length, dtype=torch.bool, device=answers.device).triu(1)
        written = self.decoder(
            self.embed(answers), memory, tgt_mask=later, tgt_is_causal=True, memory_key_padding_mask=sources == PAD
        )
        return functional.linear(written, self.table.weight)

    def embed(self, symbols: Tensor) -> Tensor:
        """Characters with their places."""
        return self.table(symbols) * math.sqrt(self.width) + places(symbols.shape[1], self.width).to(symbols.device)


def places(length: int, width: int) -> Tensor:
    """Sines and cosines of each place, shape (length, width). Source: Vaswani et al. 2017, section 3.5."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, grade the answers to the test split, export the epoch with the best answers."""
    require_kind(context.dataset, "pairs")
    settings = Settings(**params)
    rows = context.all_rows("train")
    refuse_unusable(settings, rows, context)
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    alphabet = sorted({character for text in (*rows.features, *rows.targets["answer"]) for character in text})
    shape = {"symbols": len(alphabet) + NUM_MARKS, "width": settings.width, "heads": settings.heads}
    shape |= {"layers": settings.layers}
    model = Rewriter(**shape, dropout=settings.dropout).to(context.device)
    ranks = parallel(model, context)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    steps = settings.epochs * num_batches(len(rows), global_batch=settings.batch_size)
    schedule = warmup_cosine(optimizer, steps=steps, warmup=min(100, steps // 10), least=0.01)
    best = Best(model)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "best": best}
    first_epoch = restore(context, parts) + 1
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        print(f"{len(rows)} pairs, {len(alphabet)} characters, {size} weights, {steps} steps in all")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    sources = to_symbols(rows.features, alphabet).to(context.device)
    answers = to_symbols(rows.targets["answer"], alphabet, has_marks=True).to(context.device)
    for epoch in range(first_epoch, settings.epochs + 1):
        ranks.train()
        seed_epoch(context.seed, epoch=epoch, rank=context.rank)
        local_loss = torch.zeros((), device=context.device)
        shared = {"rank": context.rank, "world_size": context.world_size, "seed": context.seed}
        for batch in batches(len(rows), global_batch=settings.batch_size, epoch=epoch, **shared):
            chosen = torch.from_numpy(batch.positions).to(context.device)
            read, told = trimmed(sources[chosen]), trimmed(answers[chosen])
            with autocast(context):
                logits = ranks(read, told[:, :-1])
            # The sum over characters, and over rows: a row counts by all it has to say.
            loss = functional.cross_entropy(
                logits.float().flatten(0, 1), told[:, 1:].flatten(), ignore_index=PAD, reduction="sum"
            )
            optimizer.zero_grad()
            (loss * batch.loss_scale).backward()
            clip(model, 5.0)
            optimizer.step()
            schedule.step()
            local_loss += loss.detach()
        (total_loss,) = sum_over_ranks(local_loss.item())
        metrics = {"train/loss": total_loss / len(rows), **validate(model, context, alphabet)}
        best.offer(1 - metrics["validation/exact_match"] if "validation/exact_match" in metrics else -epoch)
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    test = context.shard("test")
    written = rewrite(model, test.features, alphabet, beams=settings.beams, longest=answers.shape[1])
    context.grade("test", records=test.records, values=matches(written, test), measure=EXACT)
    context.show("answers.txt", table_of(test.features, written, test.targets["answer"]))
    config = {**shape, "alphabet": alphabet, "beams": settings.beams, "longest": answers.shape[1]}
    context.export(model.state_dict(), config=config)


def refuse_unusable(settings: Settings, rows: Rows, context: Context) -> None:
    """Raise ``BadInput`` for sizes that do not fit each other, ``BadData`` for pairs that cannot be learnt."""
    if settings.width % (2 * settings.heads):
        raise BadInput(f"width {settings.width} must be a multiple of twice the heads, {settings.heads}")
    uri = context.dataset.uri
    if len(rows) < settings.batch_size:
        ranks = f"{context.world_size} rank{'s' * (context.world_size > 1)}"
        raise BadData(f"{uri}: {len(rows)} train pairs are fewer than one batch of {settings.batch_size} for {ranks}")
    for split in context.dataset.num_by_split:
        held = context.all_rows(split)
        for name, texts in (("source", held.features), ("answer", held.targets["answer"])):
            for record, text in zip(held.records, texts, strict=True):
                if len(text) > LONGEST:
                    flaw = f"the {name} has {len(text)} characters, more than {LONGEST}"
                    raise BadData(f"{uri}: record {record}: {flaw}; split it into shorter ones")


def to_symbols(texts: Texts, alphabet: Sequence[str], *, has_marks: bool = False) -> Tensor:
    """Numbers of characters, shape (rows, longest), ``PAD`` behind; with marks also where a text begins and ends."""
    number = {character: place for place, character in enumerate(alphabet, start=NUM_MARKS)}
    lists = [[number.get(character, UNKNOWN) for character in text] for text in texts]
    if has_marks:
        lists = [[BEGIN, *symbols, END] for symbols in lists]
    filled = np.full((len(lists), max(map(len, lists), default=2)), PAD, dtype=np.int64)
    for row, symbols in zip(filled, lists, strict=True):
        row[: len(symbols)] = symbols
    return torch.from_numpy(filled)


def trimmed(symbols: Tensor) -> Tensor:
    """Without the columns that are ``PAD`` in all rows; two at least, for ranks that hold no row."""
    longest = int((symbols != PAD).sum(dim=1).max()) if len(symbols) else 0
    return symbols[:, : max(2, longest)]


def validate(model: Rewriter, context: Context, alphabet: Sequence[str]) -> Mapping[str, float]:
    """How often the likeliest next character, again and again, gives the answer; empty without such a split."""
    num_rows = context.dataset.num_by_split["validation"]
    if num_rows == 0:
        return {}
    rows = context.shard("validation")
    longest = max((len(text) for text in rows.targets["answer"]), default=0) + 2
    hits = matches(rewrite(model, rows.features, alphabet, beams=1, longest=longest), rows).sum()
    (total,) = sum_over_ranks(float(hits))
    return {"validation/exact_match": total / num_rows}


def matches(written: Sequence[str], rows: Rows) -> np.ndarray:
    """1 for each answer that is right to the last character, else 0."""
    pairs = zip(written, rows.targets["answer"], strict=True)
    return np.array([float(found == truth) for found, truth in pairs], dtype=np.float64)


def rewrite(model: Rewriter, texts: Texts, alphabet: Sequence[str], *, beams: int, longest: int) -> list[str]:
    """The model's answer to each text."""
    model.eval()
    device = model.table.weight.device
    written: list[str] = []
    for at in range(0, len(texts), 256):
        sources = trimmed(to_symbols(texts[at : at + 256], alphabet).to(device))
        for symbols in beam_search(model, sources, beams=beams, longest=longest).tolist():
            told = symbols[: symbols.index(END)] if END in symbols else symbols
            written.append("".join(alphabet[one - NUM_MARKS] for one in told if one >= NUM_MARKS))
    return written


@torch.no_grad()
def beam_search(model: Rewriter, sources: Tensor, *, beams: int, longest: int) -> Tensor:
    """The likeliest answer that was found to each source, shape (rows, length): ``END``, then ``PAD``, behind.

    Of all that can follow the ``beams`` likeliest beginnings, the likeliest ``beams`` are gone on with. One beam is
    greedy. Likelihoods are those of whole answers; nothing is added for length.
    """
    memory = model.encode(sources)
    rows, symbols = len(sources), model.table.num_embeddings
    found = torch.full((rows, 1, 1), BEGIN, device=sources.device)
    likelihoods = torch.zeros(rows, 1, device=sources.device)
    for _ in range(longest):
        width = found.shape[1]
        repeated = memory.repeat_interleave(width, dim=0), sources.repeat_interleave(width, dim=0)
        logits = model.decode(found.flatten(0, 1), *repeated)[:, -1].float()
        logits[:, [PAD, BEGIN, UNKNOWN]] = -torch.inf
        following = functional.log_softmax(logits, dim=1).view(rows, width, symbols)
        # An ended answer goes on as itself, at no cost.
        is_ended = (found[:, :, -1] == END) | (found[:, :, -1] == PAD)
        following[is_ended] = -torch.inf
        following[..., PAD][is_ended] = 0.0
        totals = (likelihoods[:, :, None] + following).flatten(1)
        likelihoods, chosen = totals.topk(min(beams, totals.shape[1]), dim=1)
        before = found.gather(1, (chosen // symbols)[:, :, None].expand(-1, -1, found.shape[2]))
        found = torch.cat([before, (chosen % symbols)[:, :, None]], dim=2)
        if bool(((found[:, :, -1] == END) | (found[:, :, -1] == PAD)).all()):
            break
    return found[:, 0, 1:]


def table_of(sources: Texts, written: Texts, truths: Texts, *, most: int = 30) -> str:
    """Sources, answers and truths in columns; wrong answers come first."""
    lines = sorted(zip(sources, written, truths, strict=True), key=lambda line: line[1] == line[2])[:most]
    wide = max([6, *(len(source) for source, _, _ in lines)]), max([6, *(len(answer) for _, answer, _ in lines)])
    heading = f"{'source':<{wide[0]}}  {'answer':<{wide[1]}}  truth"
    body = [
        f"{source:<{wide[0]}}  {answer:<{wide[1]}}  {truth}{'' if answer == truth else '  (wrong)'}"
        for source, answer, truth in lines
    ]
    return "\n".join([heading, *body]) + "\n"


def load(directory: Path) -> Predictor:
    """From texts, a sequence or a DataFrame with one column, to their answers, an array of texts of shape (rows,)."""
    exported = read_model(Path(directory))
    model = Rewriter(**{name: exported.config[name] for name in ("symbols", "width", "heads", "layers")})
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})
    form = {name: exported.config[name] for name in ("alphabet", "beams", "longest")}

    def predict(texts: Any) -> np.ndarray:
        values = np.asarray(texts, dtype=object).reshape(-1)
        return np.array(rewrite(model, values, **form), dtype=object)

    return predict


if __name__ == "__main__":
    run_alone(train, workload="seq2seq_transformer", example="rewriting")
