"""A language model: a decoder with rotary positions that learns what comes next in texts, and writes some.

python -m fairlead_workloads.transformer_lm --epochs=1                   trains here, alone, on Python's documentation
python -m fairlead_workloads.transformer_lm --data=path/to/texts         ... on a text file, or a folder of them
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.torch import gather_objects, seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData, BadInput
from fairlead.spec import MeasureSpec
from fairlead.training import autocast, clip, compiled, warmup_cosine
from fairlead.training.sharding import Keeper, spread, whole_weights
from fairlead.workload import Context, Params, Predictor

BITS = MeasureSpec(name="bits per byte", low=0, high=32, better="lower")
Texts = Sequence[str] | np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``transformer_lm.toml`` says the same to the platform, and a test compares the two."""

    tokens: str = "bpe"
    vocabulary: int = 2048
    context: int = 256
    width: int = 128
    heads: int = 4
    layers: int = 2
    lr: float = 4e-3
    weight_decay: float = 0.3
    strategy: str = "replicas"
    temperature: float = 0.7
    epochs: int = 12
    batch_size: int = 4


@dataclass(slots=True)
class Cache:
    """What is kept of the tokens that have been read, so that the next one costs one token's work."""

    last: Tensor | None = None
    """The last of them as numbers, shape (rows, 1, width)."""
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Keys and values of each layer, shape (rows, heads, tokens, width of a head)."""

    def forget(self, most: int) -> None:
        """Keep the last ``most`` tokens."""
        self.layers = [(keys[:, :, -most:], values[:, :, -most:]) for keys, values in self.layers]


class Block(nn.Module):
    """Attention to what stands before, then two layers for each token alone, each beside a short cut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.asked = nn.Linear(width, 3 * width, bias=False)
        self.answered = nn.Linear(width, width, bias=False)
        self.widened = nn.Linear(width, 4 * width, bias=False)
        self.narrowed = nn.Linear(4 * width, width, bias=False)
        for last in (self.answered, self.narrowed):
            nn.init.zeros_(last.weight)  # at first a block changes nothing, so depth does not hurt the first steps

    def forward(self, rows: Tensor, cosines: Tensor, sines: Tensor, before: tuple[Tensor, Tensor] | None) -> Any:
        """Rows of the same shape, (rows, tokens, width), and the keys and values to attend to from later tokens."""
        split = self.asked(self.attention_norm(rows)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        width = split.shape[-1]
        # Questions and keys of one length: a product cannot grow until attention sees a single token.
        questions = rotated(functional.rms_norm(split[0], (width,)), cosines, sines)
        keys = rotated(functional.rms_norm(split[1], (width,)), cosines, sines)
        values = split[2]
        if before is not None:
            keys, values = torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)
        found = functional.scaled_dot_product_attention(questions, keys, values, is_causal=before is None)
        rows = rows + self.answered(found.transpose(1, 2).flatten(2))
        return rows + self.narrowed(functional.relu(self.widened(self.norm(rows))).square()), (keys, values)


def rotated(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Each pair of numbers turned by an angle that grows with its place: products then know distances, not places.

    Source: Su et al. 2021, RoFormer, with the halves of a vector as pairs.
    """
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


class LanguageModel(nn.Module):
    """Tokens in, logits of the token after each out."""

    def __init__(self, *, symbols: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.angle_width = width // heads
        self.table = nn.Embedding(symbols, width)
        nn.init.normal_(self.table.weight, std=0.02)
        # How much of the token before is mixed into each: attention then looks for pairs rather than single tokens,
        # which is most of what it needs to see that something is being repeated.
        self.mixed = nn.Parameter(torch.full((width,), 0.3))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, symbols, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, tokens: Tensor, cache: Cache | None = None, *, place: int = 0) -> Any:
        """Logits, shape (rows, tokens, symbols).

        With ``cache``, which is filled, a token attends to those of earlier calls; then one token a call, except in the
        first. ``place``: of the first token.
        """
        rates = 10_000.0 ** (-torch.arange(0, self.angle_width, 2, device=tokens.device) / self.angle_width)
        angles = (place + torch.arange(tokens.shape[1], device=tokens.device))[:, None] * rates
        cosines, sines = angles.cos(), angles.sin()
        single = self.table(tokens)
        first = cache.last if cache is not None and cache.last is not None else torch.zeros_like(single[:, :1])
        rows = single + self.mixed * torch.cat([first, single[:, :-1]], dim=1)
        kept = []
        for number, block in enumerate(self.blocks):
            before = cache.layers[number] if cache is not None and cache.layers else None
            rows, seen = block(rows, cosines, sines, before)
            kept.append(seen)
        if cache is not None:
            cache.last, cache.layers = single[:, -1:], kept
        return self.head(self.norm(rows))


class Alphabet:
    """Texts as tokens and back: bytes, or byte-pair encoding learnt from texts. The last token is the *mark*."""

    def __init__(self, learnt: Tokenizer | None) -> None:
        self.learnt = learnt
        self.mark = learnt.get_vocab_size() if learnt is not None else 256

    @classmethod
    def of(cls, texts: Texts, settings: Settings) -> "Alphabet":
        """What ``settings`` ask for. Learning is deterministic, so all ranks find the same."""
        if settings.tokens == "bytes":
            return cls(None)
        learnt = Tokenizer(models.BPE())
        learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        learnt.decoder = decoders.ByteLevel()
        first = pre_tokenizers.ByteLevel.alphabet()  # all bytes, so that no text is unknown
        trainer = trainers.BpeTrainer(vocab_size=settings.vocabulary - 1, initial_alphabet=first, show_progress=False)
        learnt.train_from_iterator(texts, trainer)
        return cls(learnt)

    def encode(self, texts: Texts) -> list[np.ndarray]:
        """Tokens of each text, int64, without marks."""
        if self.learnt is None:
            return [np.frombuffer(text.encode(), np.uint8).astype(np.int64) for text in texts]
        return [np.array(found.ids, dtype=np.int64) for found in self.learnt.encode_batch(list(texts))]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; marks are a line of their own."""
        parts: list[list[int]] = [[]]
        for token in tokens:
            if token == self.mark:
                parts.append([])
            else:
                parts[-1].append(token)
        return "\n---\n".join(self._text(part) for part in parts)

    def _text(self, tokens: list[int]) -> str:
        if self.learnt is None:
            return bytes(tokens).decode(errors="replace")
        return str(self.learnt.decode(tokens))


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, grade the test split in bits per byte, show what the model writes, export it."""
    require_kind(context.dataset, "text")
    settings = Settings(**params)
    refuse_unfit(settings)
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    texts = context.all_rows("train").features
    alphabet = Alphabet.of(list(texts), settings)
    stream = packed(alphabet.encode(texts), alphabet.mark)
    num_windows = (len(stream) - 1) // settings.context
    if num_windows < settings.batch_size:
        found = f"{len(stream)} train tokens are {num_windows} windows of {settings.context}"
        ranks = f"{context.world_size} rank{'s' * (context.world_size > 1)}"
        wanted = f"fewer than one batch of {settings.batch_size} for {ranks}"
        raise BadData(f"{context.dataset.uri}: {found}, {wanted}")
    shape = {"symbols": alphabet.mark + 1, "width": settings.width, "heads": settings.heads, "layers": settings.layers}
    model = LanguageModel(**shape).to(context.device)
    size = sum(weight.numel() for weight in model.parameters())
    ranks = spread(model, context, strategy=settings.strategy, parts=model.blocks)
    steps = settings.epochs * num_batches(num_windows, global_batch=settings.batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    schedule = warmup_cosine(optimizer, steps=steps, warmup=min(100, steps // 10), least=0.02)
    keeper = Keeper(context, model=model, optimizer=optimizer, schedule=schedule)
    first_epoch = keeper.restore() + 1
    step = compiled(ranks, context)
    if context.rank == 0:
        print(f"{len(texts)} texts, {len(stream)} tokens of {shape['symbols']}, {size} weights, {steps} steps in all")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    tokens = torch.from_numpy(stream).to(context.device)
    reach = torch.arange(settings.context + 1, device=context.device)
    for epoch in range(first_epoch, settings.epochs + 1):
        ranks.train()
        seed_epoch(context.seed, epoch=epoch, rank=context.rank)
        # Each epoch cuts the stream elsewhere, so that every token is seen at many places.
        offset = int(
            np.random.RandomState((context.seed, epoch, 1)).randint(len(stream) - num_windows * settings.context)
        )
        local_loss, began = torch.zeros((), device=context.device), time.perf_counter()
        shared = {"rank": context.rank, "world_size": context.world_size, "seed": context.seed}
        for batch in batches(num_windows, global_batch=settings.batch_size, epoch=epoch, **shared):
            starts = offset + torch.from_numpy(batch.positions).to(context.device) * settings.context
            windows = tokens[starts[:, None] + reach]
            with autocast(context):
                logits = step(windows[:, :-1])
            loss = functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten(), reduction="sum")
            loss = loss / settings.context  # of a window the mean over its tokens, which are equally many everywhere
            optimizer.zero_grad()
            (loss * batch.loss_scale).backward()
            clip(model, 1.0)
            optimizer.step()
            schedule.step()
            local_loss += loss.detach()
        (total_loss,) = sum_over_ranks(local_loss.item())
        rate = num_windows * settings.context / (time.perf_counter() - began)
        metrics = {"train/loss": total_loss / num_windows, "train/tokens_per_second": rate}
        keeper.keep({**metrics, **validate(model, context, alphabet, settings)}, step=epoch)
        if context.should_stop():
            keeper.finish()  # the last checkpoint is safe when this returns
            return
    keeper.finish()

    test = context.shard("test")
    context.grade(
        "test", records=test.records, values=bits_per_byte(model, test.features, alphabet, settings), measure=BITS
    )
    context.show("text.txt", written(model, context, alphabet, settings))
    learnt = alphabet.learnt.to_str() if alphabet.learnt is not None else None
    config = {**shape, "context": settings.context, "tokenizer": learnt, "temperature": settings.temperature}
    context.export(whole_weights(model), config=config)


def refuse_unfit(settings: Settings) -> None:
    """Raise ``BadInput`` for sizes that do not fit each other."""
    if settings.width % (2 * settings.heads):
        raise BadInput(f"width {settings.width} must be a multiple of twice the heads, {settings.heads}")
    if settings.tokens == "bpe" and settings.vocabulary < 300:
        raise BadInput(f"vocabulary {settings.vocabulary} leaves byte pairs no room beside 256 bytes; at least 300")


def packed(texts: Sequence[np.ndarray], mark: int) -> np.ndarray:
    """All texts in one stream, each behind a mark: windows of it are full, whatever the lengths of texts."""
    return np.concatenate([part for text in texts for part in ([mark], text)]).astype(np.int64)


def validate(model: nn.Module, context: Context, alphabet: Alphabet, settings: Settings) -> Mapping[str, float]:
    """Mean bits per byte of the validation records, each rank doing its shard; empty without such a split."""
    num_rows = context.dataset.num_by_split["validation"]
    if num_rows == 0:
        return {}
    bits = bits_per_byte(model, context.shard("validation").features, alphabet, settings)
    (total,) = sum_over_ranks(float(bits.sum()))
    return {"validation/bits_per_byte": total / num_rows}


@torch.no_grad()
def bits_per_byte(model: nn.Module, texts: Texts, alphabet: Alphabet, settings: Settings) -> np.ndarray:
    """What each text costs, from its first token on and knowing nothing before it, shape (texts,), float64.

    Longer texts are read in windows that overlap by half, so that a token has half a context before it at least.
    Collective for a model whose weights are spread: all ranks make as many calls of it.
    """
    model.eval()
    device = next(model.parameters()).device
    stride = max(1, settings.context // 2)
    pieces = []  # of a text: its number, the first token of a window, and the first one that counts there
    encoded = [np.concatenate([[alphabet.mark], tokens]) for tokens in alphabet.encode(texts)]
    for number, tokens in enumerate(encoded):
        counted = 0
        while counted < len(tokens) - 1:
            start = max(0, counted - settings.context + stride) if counted else 0
            pieces.append((number, start, counted))
            counted = min(start + settings.context, len(tokens) - 1)
    nats = np.zeros(len(texts))
    calls = [pieces[at : at + 64] for at in range(0, len(pieces), 64)]
    for call in range(max(gather_objects(len(calls)))):
        mine = calls[call] if call < len(calls) else []
        filled = torch.full((max(1, len(mine)), settings.context + 1), alphabet.mark)
        is_counted = torch.zeros(len(filled), settings.context, dtype=torch.bool)
        for row, (number, start, counted) in enumerate(mine):
            window = torch.from_numpy(encoded[number][start : start + settings.context + 1])
            filled[row, : len(window)] = window
            is_counted[row, counted - start : len(window) - 1] = True
        filled = filled.to(device)
        logits = model(filled[:, :-1]).float()
        costs = functional.cross_entropy(logits.flatten(0, 1), filled[:, 1:].flatten(), reduction="none")
        sums = (costs.view(is_counted.shape).cpu().double() * is_counted).sum(dim=1).numpy()
        np.add.at(nats, [number for number, _, _ in mine], sums[: len(mine)])
    sizes = np.array([len(text.encode()) for text in texts], dtype=np.float64)
    return np.minimum(nats / math.log(2) / sizes, BITS.high)


@torch.no_grad()
def sample(
    model: nn.Module,
    start: Tensor,
    *,
    num_tokens: int,
    temperature: float,
    context: int,
    draw: Callable[[Tensor], Tensor],
) -> Tensor:
    """``start``, shape (rows, tokens), with tokens drawn behind it one by one.

    Keys and values of earlier tokens are kept, the last ``context`` of them, so a token costs one token's work.
    """
    model.eval()
    cache = Cache()
    tokens, fresh = start, start
    for _ in range(num_tokens):
        logits = model(fresh, cache, place=tokens.shape[1] - fresh.shape[1])[:, -1].float()
        fresh = draw(functional.softmax(logits / temperature, dim=1))
        tokens = torch.cat([tokens, fresh], dim=1)
        # A place counts on, so distances stay right when the oldest go.
        cache.forget(context - 1)
    return tokens


def written(model: nn.Module, context: Context, alphabet: Alphabet, settings: Settings) -> str:
    """How the model goes on from the beginnings of three test records, for people to read. Collective."""
    texts = [text for text in context.all_rows("test").features if len(text) >= 80][:3] or ["\n"]
    begun = alphabet.encode(texts)
    length = min(12, *map(len, begun))
    device = next(model.parameters()).device
    start = torch.tensor(np.array([[alphabet.mark, *tokens[:length]] for tokens in begun]), device=device)
    dice = torch.Generator(device).manual_seed(context.seed)  # the same on all ranks, and of every resumed run
    tokens = sample(
        model,
        start,
        num_tokens=160,
        temperature=settings.temperature,
        context=settings.context,
        draw=lambda shares: torch.multinomial(shares, 1, generator=dice),
    )
    shown = [
        f"== given: {alphabet.decode(line[1 : 1 + length])!r}\n\n{alphabet.decode(line[1:])}"
        for line in tokens.tolist()
    ]
    return "\n\n".join(shown) + "\n"


def load(directory: Path) -> Predictor:
    """From beginnings, a sequence of texts, to texts that go on from them, an array of shape (rows,)."""
    exported = read_model(Path(directory))
    config = exported.config
    model = LanguageModel(**{name: config[name] for name in ("symbols", "width", "heads", "layers")})
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})
    alphabet = Alphabet(Tokenizer.from_str(config["tokenizer"]) if config["tokenizer"] else None)

    def predict(beginnings: Any) -> np.ndarray:
        found = []
        for tokens in alphabet.encode([str(text) for text in np.asarray(beginnings, dtype=object).reshape(-1)]):
            start = torch.from_numpy(np.concatenate([[alphabet.mark], tokens[1 - config["context"] :]]))[None]
            dice = torch.Generator().manual_seed(0)
            drawn = sample(
                model,
                start,
                num_tokens=100,
                temperature=config["temperature"],
                context=config["context"],
                draw=lambda shares, dice=dice: torch.multinomial(shares, 1, generator=dice),
            )
            found.append(alphabet.decode(drawn[0, 1:].tolist()))
        return np.array(found, dtype=object)

    return predict


if __name__ == "__main__":
    run_alone(train, workload="transformer_lm", example="python_docs")
