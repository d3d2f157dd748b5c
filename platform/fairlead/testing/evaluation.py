"""Evaluation states from a few words: tables, strings of groups, or a made-up population."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from fairlead.evaluation import CountState, Provenance
from fairlead.workload import Attribute

Table = tuple[int, int, int, int]
"""tn, fp, fn, tp."""


def state_of_tables(tables: Mapping[str, Table], *, attribute: str = "group") -> CountState:
    """A binary state with one attribute, whose levels have these confusion tables."""
    state = CountState(attributes=[Attribute(name=attribute, levels=tuple(tables))], classes=("0", "1"))
    for code, (tn, fp, fn, tp) in enumerate(tables.values()):
        labels = [0] * (tn + fp) + [1] * (fn + tp)
        predictions = [0] * tn + [1] * fp + [0] * fn + [1] * tp
        codes = np.full((len(labels), 1), code)
        state.update(codes, labels, predictions, record_hashes=np.arange(len(labels)) + 1000 * code)
    return state


def state_of_rows(
    labels: Sequence[int],
    predictions: Sequence[int],
    *,
    groups: Mapping[str, Sequence[str | None]] | None = None,
    scores: Sequence[float] | None = None,
    num_classes: int = 2,
) -> CountState:
    """A state of these rows; ``groups`` maps an attribute to each row's level, None for unknown."""
    columns = groups or {}
    attributes = [Attribute(name=name, levels=tuple(_levels(column))) for name, column in columns.items()]
    codes = np.array(
        [
            [len(attribute.levels) if level is None else attribute.levels.index(level) for level in column]
            for attribute, column in zip(attributes, columns.values(), strict=True)
        ]
    ).T.reshape(len(labels), len(attributes))
    classes = [str(index) for index in range(num_classes)]
    has_scores = scores is not None
    state = CountState(attributes=attributes, classes=classes, has_scores=has_scores, has_losses=has_scores)
    state.update(codes, labels, predictions, record_hashes=np.arange(len(labels)), scores=scores)
    return state


def example_state(*, rows: int = 2000, num_classes: int = 2, seed: int = 0, has_scores: bool = True) -> CountState:
    """A made-up population by sex and age band, some of both unknown; men are selected more often."""
    generator = np.random.default_rng(seed)
    attributes = (
        Attribute(name="sex", levels=("female", "male")),
        Attribute(name="age_band", levels=("<40", "40-60", ">=60")),
    )
    sex = generator.choice(3, rows, p=[0.48, 0.5, 0.02])
    age = generator.choice(4, rows, p=[0.3, 0.4, 0.29, 0.01])
    classes = ("no", "yes") if num_classes == 2 else tuple(f"class {index}" for index in range(num_classes))
    state = CountState(attributes=attributes, classes=classes, has_scores=has_scores, has_losses=has_scores)
    if num_classes == 2:
        labels = (generator.random(rows) < 0.3 + 0.1 * (sex == 1)).astype(np.int64)
        scores = 1 / (1 + np.exp(1 - 2 * labels - 0.3 * (sex == 1) - generator.normal(size=rows)))
        predictions = (scores >= 0.5).astype(np.int64)
    else:
        labels = generator.integers(0, num_classes, rows)
        scores = generator.random((rows, num_classes))
        scores[np.arange(rows), labels] += 0.6
        scores /= scores.sum(axis=1, keepdims=True)
        predictions = scores.argmax(axis=1)
    hashes = generator.integers(0, 2**63, rows, dtype=np.uint64)
    state.update(
        np.stack([sex, age], axis=1), labels, predictions, record_hashes=hashes, scores=scores if has_scores else None
    )
    return state


def a_provenance(*, n_expected: int = 2000) -> Provenance:
    """Where an example's counts come from."""
    return Provenance(
        experiment="exp-example",
        attempt=1,
        created=datetime(2027, 3, 1, 9, tzinfo=UTC),
        data_uri="builtin://example",
        data_digest="sha256:" + "0" * 64,
        n_expected=n_expected,
        target="outcome",
    )


def _levels(column: Sequence[str | None]) -> list[str]:
    return sorted({level for level in column if level is not None})
