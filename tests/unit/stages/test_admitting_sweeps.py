"""Admission of sweeps: what would never find anything is refused at its field, what looks odd is said."""

from typing import Any

import pytest

from fairlead.admission import Admitted, FoundTrial, Rejected, RejectionReason, admit
from fairlead.data import find_manifests
from fairlead.evaluation import build_report, flat_metrics
from fairlead.evaluation.tracked import metrics_in, problem_with_key
from fairlead.spec import EvaluationSpec, ExperimentSpec, TrialRef
from fairlead.testing import a_spec
from fairlead.testing.evaluation import a_provenance, example_state

MANIFESTS = find_manifests()
SPACE = {"lr": {"log_uniform": [1e-4, 1e-1]}}
LOSS = [{"minimize": "validation/loss"}]
ASHA = {"asha": {"grace": 1, "max_resource": 60}}


def a_sweep(*, search: dict[str, Any] | None = None, **changes: Any) -> ExperimentSpec:
    plain: dict[str, Any] = {"params": {}, "evaluation": {"groupings": [["sex"]]}}
    asked = {"space": SPACE, "objectives": LOSS, "trials": 10, **(search or {})}
    return a_spec(**{**plain, "search": asked, **changes})


def _admit(spec: ExperimentSpec, **more: Any) -> Admitted | Rejected:
    return admit(spec, manifests=MANIFESTS, has_bundle=lambda _: True, **more)


def _refusal(spec: ExperimentSpec, **more: Any) -> tuple[RejectionReason, str]:
    rejected = _admit(spec, **more)
    assert isinstance(rejected, Rejected)
    return rejected.reason, rejected.detail


def _warnings(spec: ExperimentSpec, **more: Any) -> tuple[str, ...]:
    admitted = _admit(spec, **more)
    assert isinstance(admitted, Admitted), admitted.detail
    return admitted.warnings


def test_the_steps_of_a_sweep_are_its_trials() -> None:
    admitted = _admit(a_sweep(search={"trials": 7}))
    assert isinstance(admitted, Admitted)
    assert admitted.total_steps == 7
    assert admitted.warnings == ()


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"space": {"epoch": {"int": [1, 3]}}}, "/search/space/epoch: unknown parameter; known: "),
        ({"space": {"lr": {"uniform": [0, 0.5]}}}, "/search/space/lr: must be at least 1e-06, not 0"),
        ({"space": {"epochs": {"uniform": [1, 5]}}}, "takes whole numbers only; write int or log_int"),
        (
            {
                "space": {
                    "a": {"choice": [1, 2]},
                    "b": {"choice": [1, 2], "when": {"a": [1]}},
                    "lr": {"log_uniform": [1e-4, 1e-1], "when": {"a": [2], "b": [1]}},
                }
            },
            "lr/when: is looked for at no point: its conditions leave no value of a",
        ),
        ({"objectives": [{"minimize": "validation/los"}]}, "/search/objectives/0: tabular_mlp reports no "),
        ({"objectives": [{"minimize": "validation/los"}]}, "did you mean 'validation/loss'?"),
        ({"constraints": ["validation/recall >= 0.5"]}, "/search/constraints/0: tabular_mlp reports no "),
        ({"objectives": [{"maximize": "rai/acuracy_score/overall"}]}, "did you mean 'accuracy_score'?"),
        ({"objectives": [{"maximize": "rai/accuracy_score"}]}, "rai/accuracy_score' is no number of the report"),
        ({"objectives": [{"maximize": "rai/recall_score/overall"}]}, "write rai/true_positive_rate/overall"),
        ({"objectives": [{"maximize": "rai/accuracy_score/sex"}]}, "is one value for all rows"),
        ({"constraints": ["rai/demographic_parity_difference/overall <= 0.1"]}, "demographic_parity_difference/sex"),
        ({"constraints": ["rai/demographic_parity_difference/age_bend <= 0.1"]}, "only by sex; add it to evaluation"),
        ({"constraints": ["rai/energy_kwh/overall <= 1"]}, "'energy_kwh' is not measured in trials"),
        ({"constraints": ["rai/accuracy_score/overall/under/noise >= 0.9"]}, "is no number of the report"),
        (
            {"objectives": [{"maximize": "rai/accuracy_score/overall"}], "early_stopping": ASHA},
            "/search/early_stopping: 'rai/accuracy_score/overall' is only known at a trial's end",
        ),
    ],
)
def test_a_sweep_that_can_find_nothing_is_refused_at_its_field(search: dict[str, Any], words: str) -> None:
    rejected = _admit(a_sweep(search=search))
    assert isinstance(rejected, Rejected)
    assert rejected.reason is RejectionReason.BAD_SEARCH
    told = [f"{one.pointer}: {one.message}; {one.suggestion}" for one in rejected.problems]
    assert any(words in one for one in told), told


def test_a_parameter_is_either_fixed_or_looked_for() -> None:
    reason, detail = _refusal(a_sweep(params={"lr": 0.1}))
    assert reason is RejectionReason.BAD_SEARCH
    assert "given under params as well" in detail


def test_metrics_of_two_classes_are_no_aim_of_a_workload_that_tells_many_apart() -> None:
    aim = {"objectives": [{"maximize": "rai/roc_auc_score/overall"}]}
    digits = {"workload": "image_cnn", "data": {"uri": "builtin://digits"}, "evaluation": {}}
    sweep = a_sweep(search={**aim, "space": {"lr": {"log_uniform": [1e-3, 1e-2]}}}, **digits)
    manifests = {**MANIFESTS, "image_cnn": MANIFESTS["image_cnn"].amended(task="multiclass")}
    rejected = admit(sweep, manifests=manifests, has_bundle=lambda _: True)
    assert isinstance(rejected, Rejected)
    assert "no metric of a multiclass task is called 'roc_auc_score'" in rejected.detail
    assert isinstance(_admit(a_sweep(search=aim)), Admitted)


def test_what_only_gates_compare_is_compared_in_no_trial() -> None:
    gate = {"metric": "demographic_parity_difference", "by": ["age_band"], "require": "<= 0.3"}
    aim = {"constraints": ["rai/demographic_parity_difference/age_band.upper95 <= 0.3"]}
    assert _refusal(a_sweep(search=aim, gates=[gate]))[0] is RejectionReason.BAD_SEARCH
    assert isinstance(_admit(a_sweep(search=aim, evaluation={"groupings": [["age_band"]]})), Admitted)


def test_every_number_that_a_report_has_can_be_aimed_at() -> None:
    state = example_state(rows=300)
    groupings = (("sex",), ("sex", "age_band"))
    evaluation = EvaluationSpec(groupings=groupings)
    report = build_report(state, provenance=a_provenance(n_expected=state.n), evaluation=evaluation)
    flat = flat_metrics(report, metrics=None)
    for key in (*flat.values, *flat.undefined):
        assert problem_with_key(key, task="binary", groupings=groupings) is None, key
    wanted = metrics_in(["rai/selection_rate_difference/g.upper95", "rai/accuracy_score/overall", "validation/loss"])
    assert wanted == ("selection_rate_difference", "accuracy_score")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"search": {"space": {"epochs": {"int": [1, 3]}}, "algorithm": "grid"}},
            "the space has 3 points, fewer than the 10 trials: the sweep ends with the last of them",
        ),
        ({"search": {"space": {"epochs": {"choice": [1]}}}}, "has 1 point, fewer than the 10 trials: some are tried"),
        (
            {"search": {"early_stopping": {"asha": {"grace": 1, "max_resource": 100}}}},
            "max_resource is 100, and no trial reports more than 60 steps (epochs): take 60",
        ),
        ({"search": {"early_stopping": {"median": {"grace": 60}}}}, "no trial is ever stopped early"),
        ({"energy": {}, "probes": {"drift": {}}}, "trials go without energy and probes"),
        ({"search": {"algorithm": {"name": "optuna:my.samplers:Mine"}}}, "my.samplers:Mine must be installed on the"),
        ({"workload": "m:train"}, "nobody knows whether the workload reports validation/loss"),
    ],
)
def test_what_a_user_may_not_have_meant_is_said(changes: dict[str, Any], words: str) -> None:
    found = _warnings(a_sweep(**changes))
    assert any(words in warning for warning in found), found


def test_a_wide_space_is_not_counted_one_by_one() -> None:
    wide = {"batch_size": {"int": [1, 2**20]}, "epochs": {"int": [1, 10_000]}}
    assert _warnings(a_sweep(search={"space": wide, "trials": 100_000, "algorithm": "random"})) == ()


@pytest.mark.parametrize(
    ("earlier", "words"),
    [
        (None, "there is no experiment 's1' in project 'default'"),
        (a_spec(), "s1 is no sweep"),
        (a_sweep(search={"objectives": [{"minimize": "train/loss"}]}), "have no 'validation/loss': it aimed at train/"),
        (a_sweep(search={"space": {"epochs": {"int": [1, 9]}}}), "points of another space: only one of the two has"),
        (a_sweep(search={"trials": 3}), None),
    ],
)
def test_trials_are_inherited_from_a_sweep_of_the_same_space(earlier: ExperimentSpec | None, words: str | None) -> None:
    found = {"s1": earlier} if earlier else {}
    decision = _admit(a_sweep(search={"inherit": "s1"}), find_spec=found.get)
    assert isinstance(decision, Admitted if words is None else Rejected)
    if isinstance(decision, Rejected):
        assert words is not None
        assert words in decision.detail


# ---- start_from -----------------------------------------------------------------------------------------------------


def a_trial(**changes: Any) -> FoundTrial:
    plain: dict[str, Any] = {"spec": a_sweep(), "point": {"lr": 0.01}, "has_ended": True, "has_checkpoint": True}
    return FoundTrial(**{**plain, **changes})


def a_promotion(**changes: Any) -> ExperimentSpec:
    plain: dict[str, Any] = {"params": {"lr": 0.01}, "evaluation": {"groupings": [["sex"]]}}
    plain["start_from"] = {"experiment": "s1", "trial": 3}
    return a_spec(**{**plain, **changes})


@pytest.mark.parametrize(
    ("changes", "trial", "words"),
    [
        ({}, None, "there is no trial 3 of a sweep 's1' in project 'default'"),
        ({}, a_trial(has_ended=False), "trial 3 of s1 has not ended"),
        ({}, a_trial(has_checkpoint=False), "kept no checkpoint: leave start_from out, and it trains anew"),
        (
            {"data": {"uri": "builtin://lending", "sensitive": ["sex"]}},
            a_trial(),
            "is of another training: its data differs",
        ),
        ({"workload": "m:train"}, a_trial(), "its workload differs"),
        ({"mitigation": {"method": "reweighing", "by": ["sex"]}}, a_trial(), "was trained with other mitigation"),
        ({"privacy": {"target_epsilon": 3.0}}, a_trial(), "was trained without privacy"),
    ],
)
def test_training_goes_on_only_from_a_trial_of_the_same_training(
    changes: dict[str, Any], trial: FoundTrial | None, words: str
) -> None:
    reason, detail = _refusal(a_promotion(**changes), find_trial=lambda _: trial)
    assert reason is RejectionReason.BAD_START
    assert words in detail
    assert detail.startswith("/start_from: ")


def test_going_on_from_a_trial_with_other_parameters_is_said() -> None:
    asked: list[TrialRef] = []

    def find_trial(ref: TrialRef) -> FoundTrial:
        asked.append(ref)
        return a_trial()

    assert _warnings(a_promotion(), find_trial=find_trial) == ()
    assert asked == [TrialRef(experiment="s1", trial=3)]
    found = _warnings(a_promotion(params={"lr": 0.01, "hidden": [4]}), find_trial=find_trial)
    assert found == ("start_from: hidden differ from the trial's, whose checkpoint may not fit them",)


def test_without_a_look_at_the_store_a_trial_is_taken_at_its_word() -> None:
    assert isinstance(_admit(a_promotion()), Admitted)
