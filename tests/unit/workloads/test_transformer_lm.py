"""What is special of the language model: its cache, its windows, its shards, and the n-grams it is held against."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from fairlead.checking import ready_spec
from fairlead.errors import BadData, BadInput
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import train_here, train_on_ranks
from fairlead_workloads import transformer_lm as page
from fairlead_workloads.checks.transformer_lm import ngram_nats

TINY = {"tokens": "bytes", "context": 32, "width": 16, "heads": 2, "layers": 2, "batch_size": 4, "epochs": 4}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(6):
        lines = (f"{number} and {other} make {number + other}.\n" for other in range(12))
        (folder / f"sums-{number}.txt").write_text("".join(lines))
    return folder


def a_spec(texts: Path, **params: object) -> ExperimentSpec:
    spec = ready_spec("python_docs", params={**TINY, **params})
    split = {"train": 0.6, "validation": 0.2, "test": 0.2}
    return spec.amended(data={"uri": str(texts), "text": {"record_bytes": 64}, "split": split}, evaluation={})


def a_model(symbols: int = 20) -> page.LanguageModel:
    torch.manual_seed(0)
    model = page.LanguageModel(symbols=symbols, width=16, heads=2, layers=2)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def test_a_token_at_a_time_with_a_cache_gives_the_logits_of_all_at_once() -> None:
    model, tokens = a_model(), torch.randint(0, 20, (2, 9))
    cache = page.Cache()
    parts = [model(tokens[:, :4], cache)]
    parts += [model(tokens[:, place : place + 1], cache, place=place) for place in range(4, 9)]
    assert torch.allclose(torch.cat(parts, dim=1), model(tokens), atol=1e-5)


def test_rotary_products_know_distances_and_not_places() -> None:
    question, key = torch.randn(2, 1, 8)
    rates = 10_000.0 ** (-torch.arange(0, 8, 2) / 8)

    def product(at: int, other: int) -> float:
        turned = [
            page.rotated(vector, torch.cos(place * rates), torch.sin(place * rates))
            for vector, place in ((question, at), (key, other))
        ]
        return float((turned[0] * turned[1]).sum())

    assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-4)
    assert product(5, 5) == pytest.approx(float((question * key).sum()), abs=1e-5)
    # Two numbers turned by hand: a quarter turn.
    quarter = page.rotated(torch.tensor([1.0, 0.0]), torch.tensor([0.0]), torch.tensor([1.0]))
    assert quarter.tolist() == [0.0, 1.0]


def test_every_token_of_a_text_is_paid_for_once() -> None:
    settings = page.Settings(tokens="bytes", context=8)
    alphabet = page.Alphabet(None)
    model = a_model(symbols=257)
    torch.nn.init.zeros_(model.head.weight)  # every token as likely as any other
    bits = page.bits_per_byte(model, ["abc", "a much longer text than a window", "ü"], alphabet, settings)
    assert bits == pytest.approx([math.log2(257)] * 3)


@pytest.mark.parametrize("tokens", ["bytes", "bpe"])
def test_tokens_lead_back_to_their_text(tokens: str) -> None:
    text = "def naïve(x):\n    return '→' * x\n"
    alphabet = page.Alphabet.of([text * 3], page.Settings(tokens=tokens, vocabulary=300))
    assert alphabet.decode(alphabet.encode([text])[0].tolist()) == text


def test_shards_train_what_replicas_train_and_go_on_bit_by_bit_on_two_ranks_and_nearly_on_one(
    texts: Path, tmp_path: Path
) -> None:
    name = "fairlead_workloads.transformer_lm:train"

    def losses(trained: object) -> list[float]:
        return [metrics["train/loss"] for _, metrics in trained.reports]  # type: ignore[attr-defined]

    spec, other = a_spec(texts, strategy="shards"), a_spec(texts)
    shards, replicas = train_on_ranks(name, [spec, other], ranks=2, export_to=tmp_path / "whole")
    assert losses(shards) == pytest.approx(losses(replicas), rel=1e-4)
    (shards,) = train_on_ranks(name, [spec], ranks=2, export_to=tmp_path / "whole")
    (begun,) = train_on_ranks(name, [spec], ranks=2, keep_in=tmp_path / "kept", stop_after=2)
    assert [step for step, _ in begun.reports] == [1, 2]
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    (rest,) = train_on_ranks(name, [spec], ranks=2, resume_from=tmp_path / "kept", export_to=tmp_path / "rest")
    assert losses(begun) + losses(rest) == losses(shards)
    weights = [(tmp_path / place / "weights.safetensors").read_bytes() for place in ("whole", "rest")]
    assert weights[0] == weights[1]
    alone = train_here(page.train, spec, resume_from=tmp_path / "kept")
    assert losses(alone) == pytest.approx(losses(rest), rel=1e-3)


def test_ngrams_cost_what_a_count_by_hand_says() -> None:
    random = np.random.RandomState(0)
    train = [random.randint(0, 3, size=30) for _ in range(3)]
    test = [random.randint(0, 3, size=20) for _ in range(2)]
    for order in (0, 1, 2, 4):
        expected = [by_hand(train, text, place, order) for text in test for place in range(len(text))]
        assert ngram_nats(train, test, order=order, symbols=3) == pytest.approx(-np.log(expected))


def by_hand(train: list[np.ndarray], text: np.ndarray, place: int, order: int) -> float:
    """Interpolated Kneser-Ney from the definition, one token."""
    share = 1 / 3
    for length in range(min(order, place) + 1):
        counts: Counter[tuple[int, ...]] = Counter()
        before: dict[tuple[int, ...], set[int | None]] = {}
        for tokens in map(np.ndarray.tolist, train):
            for end in range(length, len(tokens)):
                gram = tuple(tokens[end - length : end + 1])
                counts[gram] += 1
                before.setdefault(gram, set()).add(tokens[end - length - 1] if end > length else None)
        if length < order:
            counts = Counter({gram: len(found) for gram, found in before.items()})
        once, twice = (sum(count == size for count in counts.values()) for size in (1, 2))
        discount = once / max(1, once + 2 * twice)
        context = tuple(text[place - length : place].tolist())
        following = {gram: count for gram, count in counts.items() if gram[:-1] == context}
        if total := sum(following.values()):
            seen = max(following.get((*context, int(text[place])), 0) - discount, 0)
            share = (seen + discount * len(following) * share) / total
    return share


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"width": 18, "heads": 4}, BadInput, "width 18 must be a multiple of twice the heads, 4"),
        ({"batch_size": 512}, BadData, "fewer than one batch of 512 for 1 rank"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    texts: Path, params: dict[str, int], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train_here(page.train, a_spec(texts, **params))
