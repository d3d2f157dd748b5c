"""How good ``transformer_lm`` must be on Python's documentation: better than gzip, and than counting n-grams."""

import gzip
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.data import open_dataset
from fairlead.data.manifests import find_manifest
from fairlead.evaluation.quantities import number_estimates, number_grouping
from fairlead.evaluation.regression import MomentState
from fairlead_workloads import transformer_lm

Tokens = NDArray[np.int64]
ONE_LAYER = {"layers": 1}
SHORT = {"epochs": 2, "width": 64, "vocabulary": 1024, **ONE_LAYER}
SHORT_DATA = {"uri": "builtin://python_docs?kilobytes=250"}


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Mean bits per byte over the test records, and what they cost by gzip and by n-grams of as many tokens."""
    spec = ready_spec("python_docs", seed=seed)
    if is_short:
        spec = ready_spec("python_docs", seed=seed, params=SHORT, data=SHORT_DATA)
    state = train_once(transformer_lm.train, spec).test
    assert isinstance(state, MomentState), "records are graded"
    settings = transformer_lm.Settings(**find_manifest("transformer_lm").with_defaults(spec.params))
    data = open_dataset(spec.data)
    train, test = data.rows("train").features, data.rows("test").features
    alphabet = transformer_lm.Alphabet.of(list(train), settings)
    read, coded = alphabet.encode(train), alphabet.encode(test)
    sizes = np.array([len(text.encode()) for text in test])
    found = {"bits_per_byte": float(number_estimates("mean_quality", number_grouping(state, ())).values[0])}
    found["gzip"] = 8 * len(gzip.compress("".join(test).encode(), 9)) / float(sizes.sum())
    for name, order in (("ngram", settings.context), ("trigram", 2)):
        nats = ngram_nats(read, coded, order=order, symbols=alphabet.mark)
        ends = np.cumsum([len(tokens) for tokens in coded])[:-1]
        costs = np.array([part.sum() for part in np.split(nats, ends)])
        found[name] = float((costs / math.log(2) / sizes).mean())
    return found


def ngram_nats(train: Sequence[Tokens], test: Sequence[Tokens], *, order: int, symbols: int) -> NDArray[np.float64]:
    """What each test token costs in nats, shape (test tokens,), given up to ``order`` tokens before it in its text.

    Interpolated Kneser-Ney with one discount an order, from the counts n1 of n-grams seen once and n2 of those seen
    twice: ``n1 / (n1 + 2 n2)``. Below all orders every symbol is as likely. Source: Chen, Goodman 1999, section 2.7.
    """
    texts = [*train, *test]
    lengths = np.array([len(tokens) for tokens in texts])
    tokens = np.concatenate(texts).astype(np.int64)
    places = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    num_train = int(lengths[: len(train)].sum())
    # An n-gram is a number; that of one token more is (number of the context, token). Contexts that occur once, in
    # whichever split, decide nothing, so from order to order fewer positions are left.
    levels: list[tuple[Tokens, Tokens, Tokens]] = []
    left, context = np.arange(len(tokens)), np.zeros(len(tokens), np.int64)
    for length in range(order + 1):
        gram = np.unique(context * symbols + tokens[left], return_inverse=True)[1]
        levels.append((left, context, gram))
        if not (left >= num_train).any():
            break
        by_position = np.full(len(tokens) + 1, -1)
        by_position[left] = gram
        longer = np.where(places[left] > length, by_position[left - 1], -1)
        repeated = np.bincount(longer[longer >= 0], minlength=1) > 1
        is_left = (longer >= 0) & repeated[longer]
        left, context = left[is_left], longer[is_left]

    shares = np.full(len(tokens), 1 / symbols)
    for length, (left, context, gram) in enumerate(levels):
        is_train = left < num_train
        if length == len(levels) - 1:
            counts = np.bincount(gram[is_train], minlength=gram.max(initial=-1) + 1).astype(np.float64)
        else:
            counts = _continuations(levels[length + 1], left, gram, places[left] > length, num_train)
        first = np.full(len(counts), -1)
        first[gram[is_train]] = context[is_train]
        # What was left out above occurred once.
        once = (counts == 1).sum() + (places[:num_train] >= length).sum() - is_train.sum()
        twice = (counts == 2).sum()
        discount = once / max(1, once + 2 * twice)
        is_known = first >= 0
        totals = np.bincount(first[is_known], weights=counts[is_known], minlength=context.max(initial=-1) + 1)
        kinds = np.bincount(first[is_known], minlength=len(totals))
        asked = (left >= num_train) & (totals[context] > 0)
        positions, total = left[asked], totals[context[asked]]
        seen = np.maximum(counts[gram[asked]] - discount, 0)
        shares[positions] = (seen + discount * kinds[context[asked]] * shares[positions]) / total
    return -np.log(shares[num_train:])


def _continuations(
    longer: tuple[Tokens, Tokens, Tokens], left: Tokens, gram: Tokens, has_before: NDArray[np.bool_], num_train: int
) -> NDArray[np.float64]:
    """Before how many different tokens each n-gram occurs in training; the beginning of a text counts as one."""
    by_position = dict_of(left, gram)
    is_train = left < num_train
    is_in_longer = np.isin(left, longer[0], assume_unique=True)
    counts = np.bincount(gram[is_train & has_before & ~is_in_longer], minlength=gram.max() + 1).astype(np.float64)
    trained = longer[0] < num_train
    _, one_of_each = np.unique(longer[2][trained], return_index=True)
    counts += np.bincount(by_position[longer[0][trained][one_of_each]], minlength=len(counts))
    starts = np.bincount(gram[is_train & ~has_before], minlength=len(counts)) > 0
    return counts + starts


def dict_of(left: Tokens, gram: Tokens) -> Tokens:
    """The n-gram that ends at each position."""
    found = np.full(int(left.max()) + 1, -1)
    found[left] = gram
    return found


CHECK = Check(
    measure=measure,
    bars=(
        Bar(value="bits_per_byte", baseline="gzip", require="<= 0"),
        Bar(value="bits_per_byte", baseline="ngram", require="<= 0"),
    ),
    short_bars=(Bar(value="bits_per_byte", require="<= 3.2"),),
    quick={
        "params": {
            "epochs": 2,
            "tokens": "bytes",
            "context": 64,
            "width": 16,
            "heads": 2,
            "layers": 1,
            "batch_size": 64,
        },
        "data": {"uri": "builtin://python_docs?kilobytes=40"},
    },
)
