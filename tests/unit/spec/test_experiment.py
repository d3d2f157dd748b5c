import re
import time
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.errors import BadSpec
from fairlead.spec import (
    ExperimentSpec,
    GateSpec,
    Manifest,
    Parameter,
    Requirement,
    RuleSpec,
    SplitSpec,
    from_mapping,
    json_schema,
)
from fairlead.testing import a_spec


@pytest.mark.parametrize("name", ["a", "0", "a-b_c", "x" * 63])
def test_a_name_is_short_and_plain(name: str) -> None:
    assert a_spec(name=name).name == name


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "_a", "a b", "a/b", "..", "a\n", "ü", "x" * 64, "a.b", "%2e", "a\0", "٣"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        a_spec(name=name)


@pytest.mark.parametrize(
    ("workload", "is_user_code"), [("tabular_mlp", False), ("mine:train", True), ("pkg.mod:train_it", True)]
)
def test_a_workload_is_built_in_or_named_by_module_and_function(workload: str, is_user_code: bool) -> None:
    assert a_spec(workload=workload).is_user_code is is_user_code


@pytest.mark.parametrize("workload", ["", "a b", "/etc/passwd", "a:b:c", "a:", ":b", "os.system", "a;b", "A", "1:f"])
def test_other_workloads_are_refused(workload: str) -> None:
    with pytest.raises(ValueError, match="workload"):
        a_spec(workload=workload)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluation": {"groupings": [["race"]]}}, "race"),
        ({"gates": [{"metric": "accuracy", "by": ["race"], "require": "> 0"}]}, "race"),
        ({"gates": [{"metric": "accuracy", "require": "> 0"}, {"metric": "accuracy", "require": "> 1"}]}, "one name"),
        ({"data": {"uri": "u", "target": "y", "features": ["y"]}}, "target"),
        ({"data": {"uri": "u", "sensitive": ["a", "a"]}}, "twice"),
        ({"data": {"uri": "u", "bins": {"a": {"column": "b", "edges": [2, 1]}}}}, "ascend"),
        ({"data": {"uri": "u", "split": {"train": 0.5}}}, "add up to 0.9"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_spec(**change)


def test_groupings_are_those_asked_for_and_those_gates_need_once_each() -> None:
    gate = {"metric": "accuracy", "by": ["age_band"], "require": "> 0"}
    spec = a_spec(evaluation={"groupings": [["sex"], ["sex", "age_band"], ["sex"]]}, gates=[gate])
    assert spec.groupings == (("sex",), ("sex", "age_band"), ("age_band",))
    assert set(a_spec(evaluation={"groupings": "all"}).groupings) == {("sex",), ("age_band",), ("sex", "age_band")}


@given(train=st.integers(1, 98), validation=st.integers(0, 50))
def test_any_shares_that_add_up_are_a_split(train: int, validation: int) -> None:
    rest = 100 - train - validation
    if 0 <= rest < 100:
        assert SplitSpec(train=train / 100, validation=validation / 100, test=rest / 100)


@pytest.mark.parametrize(
    ("require", "value", "admitted"),
    [
        ("<= 0.30", Fraction(3, 10), True),
        ("< 0.30", Fraction(3, 10), False),
        (">=0.30", Fraction(3, 10), True),
        ("> 0.30", Fraction(3, 10), False),
        ("<= 0.30", Fraction(3, 10) + Fraction(1, 10**30), False),
        ("> -1e-3", Fraction(-1, 1000), False),
    ],
)
def test_a_gate_compares_exactly(require: str, value: Fraction, admitted: bool) -> None:
    assert GateSpec(metric="accuracy", require=require).requirement.admits(value) is admitted


@pytest.mark.parametrize(
    ("require", "margin", "text"),
    [
        ("<= champion + 0.01", Fraction(1, 100), "0.01"),
        (">= champion-0.02", Fraction(-2, 100), "-0.02"),
        (">=champion", Fraction(0), "0"),
        ("< champion - 1e-3", Fraction(-1, 1000), "-1e-3"),
    ],
)
def test_a_gate_may_be_held_against_the_champion_with_an_exact_margin(
    require: str, margin: Fraction, text: str
) -> None:
    gate = GateSpec(metric="accuracy", by=("sex",), require=require)
    assert (gate.requirement.is_relative, gate.requirement.limit, gate.limit_text) == (True, margin, text)
    assert gate.name == "accuracy-sex-champion"
    assert gate.requirement.admits(margin) is gate.requirement.operator.endswith("=")
    number = GateSpec(metric="accuracy", require="<= 0.30")
    assert (number.requirement.is_relative, number.limit_text) == (False, "0.30")


@pytest.mark.parametrize(
    "require",
    [
        *("", "0.3", "== 0.3", "<= x", "<= 0.3 and more", "<= nan", "<= inf", "<= 1,5", "=< 1", "<= 1e9999"),
        *("champion", "<= champions", "<= champion 0.1", "<= 0.1 + champion", "<= champion +", "<= champion * 2"),
    ],
)
def test_other_requirements_are_refused(require: str) -> None:
    with pytest.raises(ValueError, match="require"):
        GateSpec(metric="accuracy", require=require)


@pytest.mark.parametrize(
    ("by", "name"),
    [
        ((), "accuracy"),
        (("Age Band", "sex"), "accuracy-age_band-sex"),
        (("x" * 100,), "accuracy-" + "x" * 54),
        (("race/ethnicity",), "accuracy-race_ethnicity-cf8e0079"),
        (("größe",), "accuracy-gr__e-8ff1577f"),
    ],
)
def test_a_gate_without_an_id_is_named_after_its_columns(by: tuple[str, ...], name: str) -> None:
    assert GateSpec(metric="accuracy", by=by, require="> 0.3").name == name
    assert GateSpec(id="mine", metric="accuracy", by=by, require="> 0.3").name == "mine"


@given(by=st.lists(st.text(min_size=1), min_size=1, max_size=3))
def test_any_name_of_a_gate_is_one_that_an_id_could_be(by: list[str]) -> None:
    name = GateSpec(metric="accuracy", by=tuple(by), require="> 0.3").name
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name)


def test_columns_that_differ_in_strange_characters_name_two_gates() -> None:
    columns = ["race #1", "race #2", "race /1", "x" * 80 + "/1", "x" * 80 + "/2"]
    gates = [GateSpec(metric="accuracy", by=(name,), require="> 0.3") for name in columns]
    assert len({gate.name for gate in gates}) == len(columns)


@pytest.mark.parametrize(("require", "evidence"), [("<= 0.3", "upper_bound"), ("> 0.3", "lower_bound")])
def test_without_a_word_the_bound_that_must_be_proven_decides(require: str, evidence: str) -> None:
    assert GateSpec(metric="accuracy", require=require).evidence_used == evidence
    assert GateSpec(metric="accuracy", require=require, evidence="point").evidence_used == "point"
    assert Requirement(operator="<", limit=Fraction(1)).is_upper


# ---- manifests ----------------------------------------------------------------------------------------------------

MANIFEST: dict[str, Any] = {
    "name": "tiny",
    "title": "Tiny",
    "task": "binary",
    "module": "tiny:train",
    "parameters": {
        "epochs": {"type": "int", "default": 2, "minimum": 1},
        "hidden": {"type": "ints", "default": [8], "maximum": 512},
        "optimizer": {"type": "str", "default": "adam", "choices": ["adam", "sgd"]},
        "lr": {"type": "float", "default": 0.1},
        "amp": {"type": "bool", "default": False},
    },
}


@pytest.mark.parametrize(
    ("params", "pointers"),
    [
        ({}, []),
        ({"epochs": 3, "hidden": [1, 512], "optimizer": "sgd", "lr": 1, "amp": True}, []),
        ({"epoch": 3}, ["/params/epoch"]),
        ({"epochs": 0}, ["/params/epochs"]),
        ({"epochs": True}, ["/params/epochs"]),
        ({"epochs": 2.0}, ["/params/epochs"]),
        ({"hidden": [8, 513]}, ["/params/hidden"]),
        ({"hidden": 8}, ["/params/hidden"]),
        ({"optimizer": "rms", "amp": 1, "lr": "x"}, ["/params/optimizer", "/params/amp", "/params/lr"]),
    ],
)
def test_a_manifest_says_what_is_wrong_with_parameters(params: dict[str, Any], pointers: list[str]) -> None:
    assert [problem.pointer for problem in Manifest.model_validate(MANIFEST).problems_with(params)] == pointers


def test_defaults_fill_what_a_spec_leaves_out() -> None:
    filled = Manifest.model_validate(MANIFEST).with_defaults({"epochs": 7})
    assert filled == {"epochs": 7, "hidden": [8], "optimizer": "adam", "lr": 0.1, "amp": False}


def test_a_default_that_breaks_its_own_rule_is_refused() -> None:
    broken = {**MANIFEST, "parameters": {"epochs": {"type": "int", "default": 0, "minimum": 1}}}
    with pytest.raises(ValueError, match="default of epochs"):
        Manifest.model_validate(broken)
    assert Parameter(type="int", default=1).problem_with(1) is None


def test_the_example_of_the_design_is_a_spec() -> None:
    assert ExperimentSpec.model_validate(
        {
            "name": "credit-risk",
            "workload": "tabular_mlp",
            "params": {"hidden": [64, 64], "lr": 1e-3},
            "data": {"uri": "builtin://diabetes", "sensitive": ["sex", "age_band"], "split": {"seed": 0}},
            "resources": {"workers": 2, "strategy": "ddp"},
            "evaluation": {"groupings": [["sex"], ["sex", "age_band"]], "min_support": 30},
            "gates": [{"metric": "demographic_parity_difference", "by": ["sex"], "require": "<= 0.30"}],
            "register": {"name": "credit-risk", "alias": "candidate"},
            "policy": {"priority": 50, "max_runtime_s": 3600, "retries": {"infra": 5, "oom": 1}},
        }
    )


@pytest.mark.parametrize(
    ("rule", "pointer"),
    [
        ({"then": "fail"}, "/policy/rules/0"),
        ({"exit_code": 1, "log": "some text", "then": "fail"}, "/policy/rules/0"),
        ({"exit_code": 256, "then": "fail"}, "/policy/rules/0/exit_code"),
        ({"exit_code": True, "then": "fail"}, "/policy/rules/0/exit_code"),
        ({"exit_code": "SIGNONE", "then": "fail"}, "/policy/rules/0/exit_code"),
        ({"log": "***a**", "then": "fail"}, "/policy/rules/0/log"),
        ({"log": "two\nlines", "then": "fail"}, "/policy/rules/0/log"),
        ({"log": "x" * 201, "then": "fail"}, "/policy/rules/0/log"),
        ({"log": "some text", "then": "succeeded"}, "/policy/rules/0/then"),
        ({"log": "some text"}, "/policy/rules/0/then"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_where_it_is_wrong(rule: dict[str, Any], pointer: str) -> None:
    plain = a_spec().model_dump(mode="json", by_alias=True)
    with pytest.raises(BadSpec) as refused:
        from_mapping(ExperimentSpec, {**plain, "policy": {"rules": [rule]}})
    assert any(problem.pointer.startswith(pointer) for problem in refused.value.problems)


@pytest.mark.parametrize("limit_s", [59.9, 0, -1, float("nan"), "soon"])
def test_an_idle_limit_of_less_than_a_minute_is_refused_where_it_stands(limit_s: object) -> None:
    plain = a_spec().model_dump(mode="json", by_alias=True)
    with pytest.raises(BadSpec) as refused:
        from_mapping(ExperimentSpec, {**plain, "policy": {"idle_limit_s": limit_s}})
    assert [problem.pointer for problem in refused.value.problems] == ["/policy/idle_limit_s"]
    assert [a_spec(policy={"idle_limit_s": one}).policy.idle_limit_s for one in (60, None)] == [60, None]


def test_there_are_at_most_twenty_rules() -> None:
    rule = {"exit_code": 1, "then": "fail"}
    assert len(a_spec(policy={"rules": [rule] * 20}).policy.rules) == 20
    with pytest.raises(ValueError, match="20"):
        a_spec(policy={"rules": [rule] * 21})


def test_rules_stand_in_the_schema() -> None:
    schema = json_schema()["$defs"]["RuleSpec"]["properties"]
    assert "SIGSEGV" in str(schema["exit_code"])
    assert "retry" in schema["then"]["enum"]


@given(st.text(alphabet="ab*", min_size=3, max_size=60), st.text(alphabet="ab", max_size=400))
def test_a_pattern_matches_as_wildcards_do(pattern: str, line: str) -> None:
    if len(pattern.replace("*", "")) >= 3:
        rule = RuleSpec(log=pattern, then="fail")
        assert rule.matches(line) is fnmatchcase(line, f"*{pattern}*")


def test_no_pattern_takes_long() -> None:
    rule = RuleSpec(log="a*" * 99 + "bb", then="fail")
    started = time.perf_counter()
    assert not rule.matches("a" * 64 * 1024)
    assert time.perf_counter() - started < 5
