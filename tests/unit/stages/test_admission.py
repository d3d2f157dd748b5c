"""Admission: what may enter, and a pointer to the field for what may not."""

import importlib
from typing import Any

import pytest

from fairlead.admission import Admitted, Rejected, RejectionReason, admit
from fairlead.data import find_manifests
from fairlead.spec import NO_DATA
from fairlead.testing import a_spec

MANIFESTS = find_manifests()
SHA = "0" * 64


def _admit(has_bundle: bool = True, **changes: Any) -> Admitted | Rejected:
    return admit(a_spec(**changes), manifests=MANIFESTS, has_bundle=lambda _: has_bundle)


def test_a_built_in_workload_is_admitted_with_its_defaults_and_number_of_steps() -> None:
    admitted = _admit(params={"epochs": 7})
    assert isinstance(admitted, Admitted)
    assert admitted.total_steps == 7
    assert set(MANIFESTS["tabular_mlp"].parameters) <= set(admitted.params)
    assert admitted.workload_module == MANIFESTS["tabular_mlp"].module


def test_code_of_the_users_own_may_bring_its_data_and_so_may_ours_that_say_so() -> None:
    own = {"data": NO_DATA, "evaluation": {}, "gates": []}
    assert isinstance(_admit(workload="mine:train", code=f"sha256:{SHA}", **own), Admitted)
    manifest = MANIFESTS["tabular_mlp"].amended(data="own")
    found = admit(a_spec(**own), manifests={"tabular_mlp": manifest}, has_bundle=lambda _: True)
    assert isinstance(found, Admitted)


@pytest.mark.parametrize(
    ("changes", "reason", "pointer"),
    [
        ({"workload": "no_such"}, RejectionReason.UNKNOWN_WORKLOAD, "/workload"),
        ({"params": {"epoch": 3}}, RejectionReason.BAD_PARAMETERS, "/params/epoch"),
        ({"params": {"epochs": "three"}}, RejectionReason.BAD_PARAMETERS, "/params/epochs"),
        ({"params": {"epochs": -1}}, RejectionReason.BAD_PARAMETERS, "/params/epochs"),
        ({"data": {"uri": "builtin://iris"}}, RejectionReason.BAD_DATA, "/data/uri"),
        ({"data": NO_DATA, "evaluation": {}, "gates": []}, RejectionReason.BAD_DATA, "/data"),
        ({"data": {"uri": "builtin://lending?seed=x"}}, RejectionReason.BAD_DATA, "/data/uri"),
        ({"workload": "m:train", "code": "."}, RejectionReason.UNKNOWN_CODE, "/code"),
        ({"code": f"sha256:{SHA}"}, RejectionReason.UNKNOWN_CODE, "/code"),
        ({"gates": [{"metric": "acuracy_score", "require": ">= 0.5"}]}, RejectionReason.BAD_GATE, "/gates/0"),
        (
            {"gates": [{"metric": "demographic_parity_difference", "require": "<= 0.3"}]},
            RejectionReason.BAD_GATE,
            "/gates/0",
        ),
        (
            {
                "data": {"uri": "a.csv", "split": {"train": 0.9, "validation": 0.1, "test": 0}},
                "register": {"name": "m"},
            },
            RejectionReason.BAD_DATA,
            "/data/split/test",
        ),
    ],
)
def test_what_can_never_run_is_rejected_at_its_field(
    changes: dict[str, Any], reason: RejectionReason, pointer: str
) -> None:
    rejected = _admit(**changes)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is reason
    assert pointer in [problem.pointer for problem in rejected.problems]


LENDING = {"uri": "builtin://lending", "sensitive": ["sex"]}
MITIGATION = {"method": "lagrangian", "by": ["sex"]}


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (None, "there is no experiment 'e1' in project"),
        ({"data": LENDING, "mitigation": MITIGATION}, "e1 has mitigation itself (lagrangian)"),
        ({"data": {**LENDING, "uri": "builtin://lending?seed=1"}}, "its data.uri differs"),
        ({"data": {**LENDING, "split": {"seed": 1}}}, "its data.split differs"),
        ({"data": {**LENDING, "features": ["income", "sex"]}}, None),
        ({"data": LENDING, "params": {"epochs": 3}}, None),
    ],
)
def test_a_before_is_an_experiment_on_the_same_rows_without_mitigation(
    baseline: dict[str, Any] | None, words: str | None
) -> None:
    spec = a_spec(data=LENDING, mitigation={**MITIGATION, "compare_with": "e1"})
    found = {"e1": a_spec(**baseline)} if baseline else {}
    decision = admit(spec, manifests=MANIFESTS, has_bundle=lambda _: True, find_spec=found.get)
    assert isinstance(decision, Admitted if words is None else Rejected)
    if isinstance(decision, Rejected):
        assert decision.reason is RejectionReason.BAD_MITIGATION
        assert words is not None
        assert words in decision.detail


def test_a_workload_that_does_not_carry_out_a_method_is_not_asked_to() -> None:
    manifests = {"tabular_mlp": MANIFESTS["tabular_mlp"].amended(mitigation=("reweighing",))}
    spec = a_spec(data=LENDING, mitigation=MITIGATION)
    rejected = admit(spec, manifests=manifests, has_bundle=lambda _: True)
    assert isinstance(rejected, Rejected)
    (problem,) = rejected.problems
    assert (problem.pointer, problem.suggestion) == ("/mitigation/method", "it has reweighing")


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"workload": "without"}, "/privacy"),
        ({"data": {**LENDING, "split": {"train": 0.7, "validation": 0, "test": 0.3}}}, "/data/split/validation"),
    ],
)
def test_privacy_needs_a_workload_that_has_it_and_rows_that_are_not_protected(
    changes: dict[str, Any], pointer: str
) -> None:
    manifests = {**MANIFESTS, "without": MANIFESTS["tabular_mlp"].amended(privacy=False)}
    spec = a_spec(**{"data": LENDING, "privacy": {"noise_multiplier": 1.0}, **changes})
    rejected = admit(spec, manifests=manifests, has_bundle=lambda _: True)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is RejectionReason.BAD_PRIVACY
    assert [problem.pointer for problem in rejected.problems] == [pointer]


def test_gates_on_what_is_measured_beside_the_counts_need_the_spec_to_ask_for_it() -> None:
    gates = [{"metric": "epsilon", "require": "<= 8"}, {"metric": "co2e_kg", "require": "<= 1"}]
    rejected = _admit(gates=gates, energy={})
    assert isinstance(rejected, Rejected)
    assert [problem.pointer for problem in rejected.problems] == ["/gates/0", "/gates/1"]
    assert "add privacy" in rejected.detail
    asked = {"privacy": {"target_epsilon": 8}, "energy": {"country": "DEU"}}
    assert isinstance(_admit(gates=gates, **asked), Admitted)


def test_probes_that_a_workload_has_not_are_refused_with_those_it_has() -> None:
    manifests = {"tabular_mlp": MANIFESTS["tabular_mlp"].amended(probes=("robustness", "drift"))}
    probes = {"robustness": [{"method": "noise", "eps": 1}], "explanations": {}}
    rejected = admit(a_spec(probes=probes), manifests=manifests, has_bundle=lambda _: True)
    assert isinstance(rejected, Rejected)
    (problem,) = rejected.problems
    assert (problem.pointer, problem.suggestion) == ("/probes/explanations", "it has robustness, drift")


def test_a_share_of_attribution_can_be_limited_where_a_sensitive_or_named_column_is_an_input() -> None:
    gates = [{"metric": "attribution_share", "require": "<= 0.1"}]
    named = {"attributions": {"share_of": ["income"]}}
    listed = {**LENDING, "features": ["income", "sex"]}
    for data, probes in ((LENDING, named), (listed, {"attributions": {}})):
        assert isinstance(_admit(data=data, probes=probes, gates=gates), Admitted)
    rejected = _admit(data=LENDING, probes={"attributions": {}}, gates=gates)
    assert isinstance(rejected, Rejected)
    assert [problem.pointer for problem in rejected.problems] == ["/gates/0"]
    assert "name columns under probes.attributions.share_of" in rejected.detail
    assert "add probes.attributions" in _admit(data=LENDING, gates=gates).detail  # type: ignore[union-attr]


def test_mitigation_without_a_before_and_decisions_by_group_are_said_so() -> None:
    admitted = _admit(data=LENDING, mitigation={**MITIGATION, "method": "thresholds"})
    assert isinstance(admitted, Admitted)
    told = " ".join(admitted.warnings)
    assert "will not say what mitigation changed" in told
    assert "thresholds use sex whenever the model decides" in told


def test_every_problem_is_named_at_once() -> None:
    rejected = _admit(params={"epoch": 3, "lr": "x"}, gates=[{"metric": "nope", "require": "> 1"}])
    assert isinstance(rejected, Rejected)
    assert {problem.pointer for problem in rejected.problems} == {"/params/epoch", "/params/lr", "/gates/0"}


def test_user_code_is_admitted_once_its_bundle_is_there() -> None:
    changes: dict[str, Any] = {"workload": "mine:train", "code": f"sha256:{SHA}", "params": {"anything": 1}}
    assert isinstance(_admit(has_bundle=False, **changes), Rejected)
    admitted = _admit(**changes)
    assert isinstance(admitted, Admitted)
    assert admitted.task is None
    assert any("manifest" in warning for warning in admitted.warnings)


# ---- environments ---------------------------------------------------------------------------------------------------

LOCK = f"einops==0.8.1 --hash=sha256:{SHA}\n".encode()


def _with_lock(content: bytes | None, requirements: str = f"sha256:{SHA}", **changes: Any) -> Admitted | Rejected:
    spec = a_spec(environment={"requirements": requirements}, **changes)
    return admit(spec, manifests=MANIFESTS, has_bundle=lambda _: True, find_lock=lambda _: content)


@pytest.mark.parametrize(
    ("content", "requirements", "message"),
    [
        (LOCK, "requirements.lock", "requirements must be an uploaded lock's sha256"),
        (None, f"sha256:{SHA}", "this lock was never uploaded"),
        (LOCK + b"\nnumpy>=2\n", f"sha256:{SHA}", "line 3: numpy is not pinned to one version with == (given: >=2)"),
        (b"", f"sha256:{SHA}", "it pins no package"),
    ],
)
def test_an_environment_that_pins_nothing_is_rejected(content: bytes | None, requirements: str, message: str) -> None:
    rejected = _with_lock(content, requirements)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is RejectionReason.BAD_ENVIRONMENT
    assert [(each.pointer, each.message) for each in rejected.problems] == [("/environment/requirements", message)]


def test_an_environment_is_admitted_with_a_word_about_what_it_costs() -> None:
    admitted = _with_lock(LOCK, register={"name": "m"}, gates=[{"metric": "accuracy_score", "require": ">= 0"}])
    assert isinstance(admitted, Admitted)
    assert any("builds that once" in warning and "start cold" in warning for warning in admitted.warnings)
    assert any("does not bring its environment along" in warning for warning in admitted.warnings)


# ---- evaluations ----------------------------------------------------------------------------------------------------


def _evaluation(**changes: Any) -> dict[str, Any]:
    content = {"workload": "evaluation", "data": {"uri": "s3://b/p.parquet"}, "predictions": {}, "gates": []}
    return {**content, "evaluation": {"groupings": [["sex"]]}, "params": {}, **changes}


def test_an_evaluation_needs_no_manifest_and_has_no_steps() -> None:
    admitted = _admit(**_evaluation())
    assert isinstance(admitted, Admitted), admitted
    assert (admitted.task, admitted.params, admitted.total_steps, admitted.warnings) == (None, {}, None, ())
    module, _, function = admitted.workload_module.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize(
    ("changes", "pointer", "why"),
    [
        ({"params": {"epochs": 3}}, "/params", "nothing is trained"),
        ({"code": f"sha256:{SHA}"}, "/code", "there is nothing to run"),
        ({"environment": {"requirements": f"sha256:{SHA}"}}, "/environment", "there is nothing to run"),
        ({"seed": 3}, "/seed", "no random numbers"),
        ({"register": {"name": "m"}}, "/register", "no model here"),
        ({"mitigation": {"method": "reweighing", "by": ["sex"]}}, "/mitigation", "made already"),
        ({"policy": {"checkpoints": {"keep_last": 3}}}, "/policy/checkpoints", "begins again"),
        ({"energy": {"country": "DEU"}}, "/energy", "measured in training"),
        ({"resources": {"gpus_per_worker": 1}}, "/resources/gpus_per_worker", "counting is for CPUs"),
        ({"data": {"uri": "p.csv", "target": "y"}}, "/data/target", "say under predictions"),
        ({"data": {"uri": "p.csv", "split": {"train": 1, "validation": 0, "test": 0}}}, "/data/split", "predictions"),
    ],
)
def test_what_belongs_to_training_has_no_place_in_an_evaluation(
    changes: dict[str, Any], pointer: str, why: str
) -> None:
    rejected = _admit(**_evaluation(**changes))
    assert isinstance(rejected, Rejected)
    assert rejected.reason is RejectionReason.NOT_AN_EVALUATION
    (problem,) = rejected.problems
    assert (problem.pointer, why in str(problem.suggestion)) == (pointer, True)


@pytest.mark.parametrize(
    ("changes", "reason", "pointer"),
    [
        ({"data": {"uri": "builtin://diabetes"}}, RejectionReason.BAD_DATA, "/data/uri"),
        ({"gates": [{"metric": "acuracy_score", "require": ">= 0.5"}]}, RejectionReason.BAD_GATE, "/gates/0"),
    ],
)
def test_an_evaluation_without_sense_is_rejected_at_its_field(
    changes: dict[str, Any], reason: RejectionReason, pointer: str
) -> None:
    rejected = _admit(**_evaluation(**changes))
    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.problems[0].pointer) == (reason, pointer)


AGAINST = {"metric": "accuracy_score", "require": ">= champion - 0.02"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gates": [AGAINST]}, "add register"),
        (_evaluation(gates=[AGAINST]), "columns.champion"),
        (_evaluation(gates=[AGAINST], predictions={"champion": "c", "weight": "w"}), "leave columns.weight out"),
        ({"gates": [{**AGAINST, "metric": "roc_auc_score"}], "register": {"name": "m"}}, "what can: accuracy_score"),
    ],
)
def test_a_gate_for_which_there_can_be_no_champion_is_refused_with_what_to_do(
    changes: dict[str, Any], words: str
) -> None:
    rejected = _admit(**changes)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is RejectionReason.BAD_GATE
    (problem,) = rejected.problems
    assert (problem.pointer, words in problem.message) == ("/gates/0", True)


@pytest.mark.parametrize(
    "changes",
    [
        {"gates": [AGAINST], "register": {"name": "m"}},
        _evaluation(gates=[AGAINST], predictions={"champion": "before"}),
        {
            "workload": "mine:train",
            "code": f"sha256:{SHA}",
            "params": {},
            "gates": [AGAINST],
            "register": {"name": "m"},
        },
    ],
)
def test_a_gate_may_be_held_against_a_champion(changes: dict[str, Any]) -> None:
    assert isinstance(_admit(**changes), Admitted)


WINDOWS = {"time": "month", "series": "station", "steps": 48, "horizon": 12}
FORMS, CYCLES = {"uri": "builtin://cylinder_bell_funnel"}, {"uri": "builtin://cycles", "windows": WINDOWS}


@pytest.mark.parametrize(
    ("data", "metric", "enters"),
    [
        (CYCLES, "mean_quality", True),
        (CYCLES, "accuracy_score", False),
        (FORMS, "accuracy_score", True),
        (FORMS, "mean_quality", False),
    ],
)
def test_data_decide_whether_answers_to_series_are_graded_or_counted(
    data: dict[str, Any], metric: str, enters: bool
) -> None:
    found = _admit(workload="sequence_rnn", data=data, gates=[{"metric": metric, "require": ">= 0.5"}])
    assert isinstance(found, Admitted) is enters
    assert isinstance(found, Admitted) or found.reason is RejectionReason.BAD_GATE
