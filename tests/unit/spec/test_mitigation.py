"""What a spec may ask for against gaps, and what each method has of options."""

from typing import Any

import pytest

from fairlead.errors import BadSpec
from fairlead.spec import ExperimentSpec, MitigationSpec, from_mapping, spec_hash
from fairlead.testing import a_spec

DATA = {"uri": "builtin://lending", "sensitive": ["sex", "age_band"]}


def asked(**mitigation: Any) -> dict[str, Any]:
    return {"name": "a", "workload": "tabular_mlp", "data": DATA, "mitigation": mitigation}


@pytest.mark.parametrize(
    ("mitigation", "words"),
    [
        ({"method": "magic", "by": ["sex"]}, "/mitigation/method: Input should be 'reweighing', 'group_dro'"),
        ({"method": "reweighing"}, "/mitigation/by: Field required"),
        ({"method": "reweighing", "by": []}, "/mitigation/by: List should have at least 1 item"),
        ({"method": "reweighing", "by": "sex"}, "/mitigation/by: Input should be a list (given: 'sex')"),
        ({"method": "reweighing", "by": ["sex", "sex"]}, "names an attribute twice"),
        ({"method": "reweighing", "by": ["race"]}, "mitigation.by names ['race'], which data.sensitive does not list"),
        (
            {"method": "reweighing", "by": ["sex"], "goal": "equal_opportunity"},
            "goal is an option of lagrangian, adver",
        ),
        ({"method": "thresholds", "by": ["sex"], "strength": 1}, "strength is an option of adversarial, not of thre"),
        ({"method": "lagrangian", "by": ["sex"], "allowed_gap": 1}, "/mitigation/allowed_gap"),
        ({"method": "lagrangian", "by": ["sex"], "compare_with": "../e1"}, "/mitigation/compare_with"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_reason(mitigation: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec) as refusal:
        from_mapping(ExperimentSpec, asked(**mitigation))
    assert words in str(refusal.value)


def test_every_method_says_what_it_is_about() -> None:
    by = ("sex",)
    assert MitigationSpec(method="lagrangian", by=by).goal_used == "demographic_parity"
    assert not MitigationSpec(method="thresholds", by=by).is_in_training
    assert [m for m in ("reweighing", "lagrangian") if MitigationSpec(method=m, by=by).needs_two_classes] == [
        "lagrangian"
    ]


def test_thresholds_need_validation_rows_to_be_chosen_on() -> None:
    data = {**DATA, "split": {"train": 0.7, "validation": 0, "test": 0.3}}
    with pytest.raises(BadSpec, match="chosen on the validation split"):
        from_mapping(ExperimentSpec, asked(method="thresholds", by=["sex"]) | {"data": data})


@pytest.mark.parametrize(
    ("by", "data", "is_accepted"),
    [
        (["sex"], {}, False),
        (["sex"], {"features": ["income"]}, False),
        (["sex"], {"features": ["income", "sex"]}, True),
        (["young"], {"features": ["age"], "bins": {"young": {"column": "age", "edges": [30]}}}, False),
    ],
)
def test_a_registered_model_with_thresholds_must_be_told_the_group(
    by: list[str], data: dict[str, Any], is_accepted: bool
) -> None:
    content = asked(method="thresholds", by=by)
    content["data"] = {**DATA, "sensitive": by, **data}
    assert from_mapping(ExperimentSpec, content).register_as is None
    content["register"] = {"name": "m"}
    if is_accepted:
        assert from_mapping(ExperimentSpec, content).mitigation is not None
    else:
        with pytest.raises(BadSpec, match=rf"list {by[0]} under data\.features"):
            from_mapping(ExperimentSpec, content)


def test_a_spec_without_mitigation_is_written_as_it_was_before_there_was_any() -> None:
    spec = a_spec()
    assert "mitigation" not in spec.model_dump(mode="json", by_alias=True)
    mitigated = spec.amended(
        data={**spec.data.model_dump(), "sensitive": ["sex"]}, mitigation={"method": "reweighing", "by": ["sex"]}
    )
    assert mitigated.mitigation is not None
    assert ExperimentSpec.model_validate_json(mitigated.model_dump_json(by_alias=True)) == mitigated
    assert spec_hash(mitigated) != spec_hash(mitigated.amended(mitigation=None))
