import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fairlead.errors import BadSpec, Problem
from fairlead.spec import ExperimentSpec, from_json, from_mapping, from_yaml, json_schema, spec_hash
from fairlead.spec.document import MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_PROBLEMS
from fairlead.testing import a_spec

PLAIN = {"name": "demo", "workload": "tabular_mlp", "data": {"uri": "builtin://diabetes"}}


def problems(change: dict[str, Any]) -> tuple[Problem, ...]:
    with pytest.raises(BadSpec) as refusal:
        from_mapping(ExperimentSpec, {**PLAIN, **change})
    return refusal.value.problems


# ---- unknown keys and pointers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "pointer", "suggestion"),
    [
        ({"resorces": {}}, "/resorces", "did you mean 'resources'?"),
        ({"regster": {}}, "/regster", "did you mean 'register'?"),
        ({"register_az": {}}, "/register_az", "did you mean 'register'?"),
        ({"register": {"name": "m", "aliass": "x"}}, "/register/aliass", "did you mean 'alias'?"),
        ({"resources": {"wrokers": 2}}, "/resources/wrokers", "did you mean 'workers'?"),
        ({"policy": {"retries": {"infr": 1}}}, "/policy/retries/infr", "did you mean 'infra'?"),
        ({"evaluation": {"min_suport": 1}}, "/evaluation/min_suport", "did you mean 'min_support'?"),
        (
            {"gates": [{"metric": "accuracy", "require": "> 0.5", "evidnce": "point"}]},
            "/gates/0/evidnce",
            "did you mean 'evidence'?",
        ),
        ({"data": {"uri": "u", "splt": {}}}, "/data/splt", "did you mean 'split'?"),
        ({"data": {"uri": "u", "split": {"sed": 1}}}, "/data/split/sed", "did you mean 'seed'?"),
        (  # a bin that is called like one of its own keys
            {"data": {"uri": "u", "bins": {"column": {"column": "age", "edges": [1], "edgs": []}}}},
            "/data/bins/column/edgs",
            "did you mean 'edges'?",
        ),
        (
            {"data": {"uri": "u", "label_noise": {"where": {}, "share": 1, "shares": 1}}},
            "/data/label_noise/shares",
            "did you mean 'share'?",
        ),
        ({"register": {"name": "m", "zzz": 1}}, "/register/zzz", "known here: name, alias"),
        ({"a/b~c": 1}, "/a~1b~0c", None),
    ],
)
def test_an_unknown_key_is_refused_where_it_stands_with_the_nearest_known_one(
    change: dict[str, Any], pointer: str, suggestion: str | None
) -> None:
    (problem,) = problems(change)
    assert (problem.pointer, problem.message.split(" ")[0]) == (pointer, "unknown")
    assert suggestion is None or problem.suggestion == suggestion


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"evaluation": {"groupings": 3}}, "/evaluation/groupings"),
        ({"evaluation": {"groupings": [["sex", 1]]}}, "/evaluation/groupings/0/1"),
        ({"params": {"not a name": 1}}, "/params/not a name"),
        ({"labels": {"Team": "x"}}, "/labels/Team"),
        ({"resources": {"workers": 0}}, "/resources/workers"),
        ({"resources": {"workers": "many"}}, "/resources/workers"),
        ({"register": {}}, "/register/name"),
        ({"gates": [{"metric": "accuracy", "require": "about 3"}]}, "/gates/0"),
        ({"seed": -1}, "/seed"),
    ],
)
def test_every_problem_points_into_the_document(change: dict[str, Any], pointer: str) -> None:
    assert {problem.pointer for problem in problems(change)} == {pointer}


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"uri": "u", "sensitive": "sex"}},
        {"data": {"uri": "u", "features": 3}},
        {"gates": "accuracy"},
        {"evaluation": {"groupings": [["sex"], "age"]}},
        {"resources": {"any_of": {}}},
        {"data": {"uri": "u", "bins": {"b": {"column": "c", "edges": []}}}},
    ],
)
def test_a_list_is_called_a_list_whatever_it_is_kept_as(change: dict[str, Any]) -> None:
    (problem,) = problems(change)
    assert "tuple" not in problem.message.lower()
    assert "list" in problem.message.lower()


def test_all_problems_are_told_at_once() -> None:
    found = problems({"name": "Not A Name", "seed": -1, "wrkload": 1})
    assert {problem.pointer for problem in found} == {"/name", "/seed", "/wrkload"}


def test_thousands_of_problems_are_told_in_part() -> None:
    assert len(problems({f"key{number}": 1 for number in range(5000)})) == MAX_PROBLEMS


# ---- hostile documents --------------------------------------------------------------------------------------------

HOSTILE_YAML = [
    ("a: &a [1]\nb: *a", "line 2: YAML aliases"),
    ("a: &a {<<: *a}", "YAML aliases"),
    ("[" * 200_000, f"deeper than {MAX_DEPTH}"),
    ("a: " + "{b: " * 50_000, f"deeper than {MAX_DEPTH}"),
    ("x: " + "y" * MAX_BYTES, "bytes"),
    ("a: 2026-13-45", "not YAML"),
    ("a: " + "9" * 5000, "not YAML"),
    ("a: 2026-01-01", "a date has no place in JSON; write it in quotes"),
    ("a: !!binary aGVsbG8=", "has no place in JSON"),
    ("a: !!set {b}", "has no place in JSON"),
    ("1: 2", "key must be plain text"),
    ("{[a]: 1}", "not YAML"),
    ("!!python/object/apply:os.system ['true']", "not YAML"),
    ("--- {}\n--- {}", "not YAML"),
    ("a: \0", "not YAML"),
    ("\ud800", "not YAML"),
    ("- a", "must be a mapping"),
    ("", "must be a mapping"),
    ("a: .nan", "nan is not a number"),
    ("a: [0, {b: -.inf}]", "/a/1/b: -inf is not a number"),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE_YAML, ids=range(len(HOSTILE_YAML)))
def test_hostile_yaml_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(BadSpec) as refusal:
        from_yaml(ExperimentSpec, text)
    assert message in str(refusal.value)


HOSTILE_JSON = [
    ("[" * 200_000, "not JSON"),
    ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), f"deeper than {MAX_DEPTH}"),
    (json.dumps({"a": [0] * MAX_NODES}), f"more than {MAX_NODES}"),
    (json.dumps({"a": "ü" * MAX_BYTES}, ensure_ascii=False), "bytes"),
    (b"\xff\xfe\xfa", "not JSON"),
    ('{"a": NaN}', "/a: nan is not a number"),
    ('{"params": {"lr": 1e999}}', "/params/lr: inf is not a number"),
    ('{"a": "\\u0000"}', "NUL"),
    ('{"a": "\\ud800"}', "surrogate"),
    ('{"\\u0000": 1}', "key must be plain text"),
    ('{"a": ' + "9" * 5000 + "}", "not JSON"),
    ("null", "must be a mapping"),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE_JSON, ids=range(len(HOSTILE_JSON)))
def test_hostile_json_is_refused_in_words(text: str | bytes, message: str) -> None:
    with pytest.raises(BadSpec) as refusal:
        from_json(ExperimentSpec, text)
    assert message in str(refusal.value)


def test_the_limits_themselves_are_inside() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH - 3):
        deep = [deep]
    assert from_mapping(ExperimentSpec, {**PLAIN, "params": {"deep": deep}}).params == {"deep": deep}
    wide = MAX_NODES - 10
    assert len(from_mapping(ExperimentSpec, {**PLAIN, "params": {"wide": [0] * wide}}).params["wide"]) == wide


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": {"b": -math.inf}}, {1: 2}, b"x", "\0"])
def test_a_spec_made_in_python_holds_nothing_that_json_cannot(value: Any) -> None:
    with pytest.raises(ValueError, match="lr"):
        a_spec(params={"lr": value})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(
    content=json_values
    | st.dictionaries(st.sampled_from(["name", "data", "gates", "params", "evaluation", "register"]), json_values)
)
def test_whatever_comes_in_the_answer_is_a_spec_or_problems_in_words(content: Any) -> None:
    found: Any = None
    try:
        found = from_mapping(ExperimentSpec, content)
    except BadSpec as error:
        found = error
    assert isinstance(found, ExperimentSpec) or str(found).strip()


@given(text=st.text())
def test_any_text_is_yaml_of_a_spec_or_refused(text: str) -> None:
    with pytest.raises(BadSpec):
        from_yaml(ExperimentSpec, text)


# ---- round trips and the hash -------------------------------------------------------------------------------------

storable = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | storable,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(storable, inner, max_size=3),
    max_leaves=10,
)
names = st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,20}\Z")
specs = st.builds(
    a_spec,
    name=names,
    project=names,
    params=st.dictionaries(st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,9}\Z"), values, max_size=4),
    labels=st.dictionaries(names, storable, max_size=2),
    seed=st.integers(0, 2**32 - 1),
    register=st.none() | st.builds(dict, name=names),
    resources=st.builds(dict, workers=st.integers(1, 64), cpus_per_worker=st.floats(0.1, 8)),
    gates=st.just([{"metric": "accuracy", "require": ">= 0.7"}]) | st.just([]),
)


@given(spec=specs)
def test_a_spec_survives_json_and_yaml(spec: ExperimentSpec) -> None:
    plain = spec.model_dump(mode="json", by_alias=True)
    assert from_json(ExperimentSpec, json.dumps(plain)) == spec
    assert from_json(ExperimentSpec, spec.model_dump_json(by_alias=True)) == spec
    assert from_mapping(ExperimentSpec, plain) == spec


def test_a_spec_survives_yaml() -> None:
    spec = a_spec(params={"lr": 1e-3, "on": True, "no": "no"}, register={"name": "m"})
    assert from_yaml(ExperimentSpec, yaml.safe_dump(spec.model_dump(mode="json", by_alias=True))) == spec


@given(spec=specs, data=st.data())
def test_the_hash_does_not_see_the_order_of_keys(spec: ExperimentSpec, data: st.DataObject) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = data.draw(st.permutations(list(value)))
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    again = from_mapping(ExperimentSpec, shuffled(spec.model_dump(mode="json", by_alias=True)))
    assert spec_hash(again) == spec_hash(spec)


def test_the_hash_sees_defaults_as_if_written_out_and_every_change() -> None:
    assert spec_hash(a_spec(seed=0)) == spec_hash(a_spec())
    changed = [{}, {"seed": 1}, {"params": {"epochs": 3}}, {"params": {"epochs": 2.5}}, {"register": {"name": "m"}}]
    assert len({spec_hash(a_spec(**change)) for change in changed}) == len(changed)


def test_a_spec_cannot_be_changed_but_copied_with_changes() -> None:
    spec = a_spec(register={"name": "a"})
    with pytest.raises(ValueError, match="frozen"):
        spec.seed = 1  # type: ignore[misc]  # the point
    assert spec.amended(seed=1).seed == 1
    assert spec.amended(register_as={"name": "b"}).register_as == a_spec(register={"name": "b"}).register_as
    with pytest.raises(ValueError, match="greater than or equal"):
        spec.amended(seed=-1)


# ---- the schema ---------------------------------------------------------------------------------------------------


def test_the_schema_admits_what_the_platform_writes_and_refuses_unknown_keys() -> None:
    from jsonschema import Draft202012Validator

    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    plain = a_spec(register={"name": "m"}).model_dump(mode="json", by_alias=True)
    validator = Draft202012Validator(schema)
    assert list(validator.iter_errors(plain)) == []
    assert list(validator.iter_errors({**plain, "regster": 1})) != []
    assert "register" in schema["properties"]
    assert "register_as" not in schema["properties"]
