"""What a spec may ask to be measured beside the counts: energy and privacy."""

from typing import Any

import pytest

from fairlead.errors import BadInput
from fairlead.spec import ExperimentSpec, from_mapping

DATA = {"uri": "builtin://diabetes", "sensitive": ["sex"]}
PLAIN = {"name": "a", "workload": "tabular_mlp", "data": DATA}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"energy": {"country": "Germany"}}, "/energy/country"),
        ({"energy": {"country": "DEU", "intensity_g_per_kwh": 380}}, "give either country or intensity_g_per_kwh"),
        ({"energy": {"intensity_g_per_kwh": -1}}, "/energy/intensity_g_per_kwh"),
        ({"energy": {"watts": 5}}, "/energy/watts"),
        ({"privacy": {}}, "give either noise_multiplier or target_epsilon"),
        ({"privacy": {"noise_multiplier": 1, "target_epsilon": 8}}, "give either noise_multiplier or target_epsilon"),
        ({"privacy": {"noise_multiplier": 0}}, "/privacy/noise_multiplier"),
        ({"privacy": {"target_epsilon": 8, "delta": 1}}, "/privacy/delta"),
        ({"privacy": {"target_epsilon": 8, "max_grad_norm": 0}}, "/privacy/max_grad_norm"),
        (
            {"privacy": {"target_epsilon": 8}, "mitigation": {"method": "reweighing", "by": ["sex"]}},
            "privacy needs a loss in which each row stands alone, and reweighing weighs rows by others",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_reason(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as raised:
        from_mapping(ExperimentSpec, {**PLAIN, **asked})
    assert any(words in f"{problem.pointer}: {problem.message}" for problem in raised.value.problems)


def test_thresholds_look_at_no_protected_row_and_may_stand_beside_privacy() -> None:
    thresholds = {"method": "thresholds", "by": ["sex"]}
    spec = from_mapping(ExperimentSpec, {**PLAIN, "privacy": {"target_epsilon": 8}, "mitigation": thresholds})
    assert list(spec.measured) == ["privacy"]


def test_a_spec_that_asks_for_neither_is_written_as_it_was_before_there_were_any() -> None:
    written = from_mapping(ExperimentSpec, PLAIN).model_dump(mode="json", by_alias=True)
    assert not {"energy", "privacy"} & written.keys()
    assert from_mapping(ExperimentSpec, {**PLAIN, "energy": {}}).measured.keys() == {"energy"}
