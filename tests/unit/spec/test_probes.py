"""What a spec may ask to be looked at, and what it must not change for specs that ask for nothing."""

from typing import Any

import pytest

from fairlead.errors import BadSpec
from fairlead.spec import ExperimentSpec, PerturbationSpec, from_mapping, spec_hash

DATA = {"uri": "builtin://lending", "sensitive": ["sex"]}


def asked(**more: Any) -> dict[str, Any]:
    return {"name": "a", "workload": "tabular_mlp", "data": DATA, **more}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"probes": {}}, "probes asks for nothing"),
        ({"probes": {"robustness": [{"method": "magic", "eps": 1}]}}, "Input should be 'fgsm', 'pgd' or 'noise'"),
        ({"probes": {"robustness": [{"method": "fgsm", "eps": -1}]}}, "greater than or equal to 0"),
        (
            {"probes": {"robustness": [{"method": "fgsm", "eps": 1, "steps": 3}]}},
            "steps is an option of pgd, not of",
        ),
        ({"probes": {"robustness": [{"method": "noise", "eps": 1, "norm": "l2"}]}}, "norm is an option of fgsm, pgd"),
        (
            {"probes": {"robustness": [{"method": "pgd", "eps": 0.1}, {"method": "pgd", "eps": 0.1, "steps": 9}]}},
            "both called pgd_linf_0.1",
        ),
        (
            {"gates": [{"metric": "accuracy_score", "require": ">= 0.5", "condition": "pgd_linf_1"}]},
            "asks for condition 'pgd_linf_1'; there are none: ask for some under probes",
        ),
        (
            {
                "probes": {"temperature": {}},
                "data": {**DATA, "split": {"train": 0.9, "validation": 0, "test": 0.1}},
            },
            "a temperature is fitted on the validation split",
        ),
        (
            {
                "probes": {"robustness": [{"method": "noise", "eps": 1}]},
                "data": {**DATA, "split": {"train": 0.9, "validation": 0.1, "test": 0}},
            },
            "probes look at the test split",
        ),
        ({"probes": {"attributions": {"steps": 0}}}, "greater than or equal to 1"),
        ({"probes": {"attributions": {"baseline": "black"}}}, "Input should be 'zero' or 'mean'"),
        ({"probes": {"attributions": {"share_of": ["age", "age"]}}}, "share_of lists a column twice"),
        (
            {"probes": {"attributions": {"share_of": ["sex"]}}},
            "share_of names ['sex'], which is no input: list it in data.features",
        ),
        (
            {"probes": {"attributions": {"share_of": ["age"]}}, "data": {**DATA, "features": ["income"]}},
            "share_of names ['age'], which is no input: list it in data.features",
        ),
        (
            {"probes": {"attributions": {"baseline": "mean"}}, "privacy": {"target_epsilon": 8}},
            "take probes.attributions.baseline zero",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_reason(more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec) as refusal:
        from_mapping(ExperimentSpec, asked(**more))
    assert words in str(refusal.value)


def test_conditions_are_called_by_what_is_done() -> None:
    names = [
        PerturbationSpec.model_validate(way).condition
        for way in (
            {"method": "pgd", "eps": 0.1},
            {"method": "fgsm", "eps": 0.25, "norm": "l2"},
            {"method": "noise", "eps": 1e-5},
        )
    ]
    assert names == ["pgd_linf_0.1", "fgsm_l2_0.25", "noise_1e-05"]


def test_a_gate_is_named_by_its_condition_too() -> None:
    probes = {"robustness": [{"method": "pgd", "eps": 0.1}, {"method": "pgd", "eps": 0.2}]}
    gates = [
        {"metric": "accuracy_score", "require": ">= 0.5", **({"condition": name} if name else {})}
        for name in ("", "pgd_linf_0.1", "pgd_linf_0.2")
    ]
    spec = from_mapping(ExperimentSpec, asked(probes=probes, gates=gates))
    names = [gate.name for gate in spec.gates]
    assert names == ["accuracy_score", "accuracy_score-pgd_linf_0_1", "accuracy_score-pgd_linf_0_2"]


def test_a_spec_without_probes_is_written_as_before_there_were_any() -> None:
    spec = from_mapping(ExperimentSpec, asked(gates=[{"metric": "accuracy_score", "require": ">= 0.5"}]))
    document = spec.model_dump(mode="json", by_alias=True)
    assert "probes" not in document
    assert "condition" not in document["gates"][0]
    with_probes = spec.amended(probes={"robustness": [{"method": "noise", "eps": 1}]})
    assert spec_hash(spec) != spec_hash(with_probes)
    assert from_mapping(ExperimentSpec, with_probes.model_dump(mode="json", by_alias=True)) == with_probes
    assert "attributions" not in with_probes.model_dump(mode="json", by_alias=True)["probes"]
