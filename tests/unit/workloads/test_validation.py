"""What a classifier reaches on validation rows, against the same counted by hand."""

import numpy as np
import pytest

from fairlead.spec import ExperimentSpec
from fairlead.testing.context import a_context
from fairlead.training import validate_classes


def spec(**split: float) -> ExperimentSpec:
    data = {"uri": "builtin://digits", "split": {"train": 0.8, "validation": 0.0, "test": 0.2} | split}
    return ExperimentSpec.model_validate({"name": "a", "workload": "image_cnn", "data": data})


def test_loss_and_accuracy_are_means_over_the_split() -> None:
    context = a_context(spec(validation=0.2, test=0.0))
    rows = context.shard("validation")

    def probabilities(features: np.ndarray) -> np.ndarray:
        assert np.array_equal(features, rows.features)
        return np.where(np.arange(10) == 3, 0.55, 0.05) * np.ones((len(features), 1))

    found = validate_classes(context, probabilities)
    share = float((rows.labels == 3).mean())
    assert found["validation/accuracy"] == pytest.approx(share)
    assert found["validation/loss"] == pytest.approx(-share * np.log(0.55) - (1 - share) * np.log(0.05))


def test_nothing_is_said_of_a_split_without_rows() -> None:
    assert validate_classes(a_context(spec()), lambda _: pytest.fail("nobody is asked")) == {}
