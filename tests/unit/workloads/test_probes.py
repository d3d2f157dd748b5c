"""Looks at a trained model: attacks against closed forms, counts against other numbers of ranks."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import Tensor, nn

from fairlead.data import find_specs, open_dataset
from fairlead.data.context import KeepingOutlet, LocalContext
from fairlead.data.dataset import Dataset
from fairlead.data.drift import DriftCounter
from fairlead.data.export import Origin
from fairlead.data.probes import MOST_LEVELS
from fairlead.errors import BadData, BadInput
from fairlead.evaluation import CountState, Measurements, build_report, grouping, report_schema
from fairlead.evaluation.metrics import group_estimates
from fairlead.evaluation.page import render_page
from fairlead.evaluation.robustness import rows_judged_otherwise
from fairlead.mitigation import Mitigation
from fairlead.probes import Judge, ball_of, fit_temperature, lowest_loss, perturbed, run_probes
from fairlead.spec import DriftSpec, ExperimentSpec, PerturbationSpec, ProbesSpec, from_yaml
from fairlead.testing.context import a_context, train_here, train_on_ranks
from fairlead.testing.evaluation import a_provenance
from fairlead.workload import Attribute, FeatureColumn, Rows
from fairlead_workloads import image_cnn, tabular_mlp

Ways = list[dict[str, Any]]
EVERY: Ways = [
    {"method": "fgsm", "eps": 0.2},
    {"method": "fgsm", "eps": 0.2, "norm": "l2"},
    {"method": "pgd", "eps": 0.2, "steps": 5},
    {"method": "pgd", "eps": 0.2, "norm": "l2", "steps": 5},
    {"method": "noise", "eps": 1.0},
]


def lending(ways: Ways, *, rows: int = 2000, **changes: Any) -> ExperimentSpec:
    spec = from_yaml(ExperimentSpec, find_specs()["lending"].read_text())
    data = {**spec.data.model_dump(), "uri": f"builtin://lending?rows={rows}"}
    params = {**spec.params, "epochs": 2, "batch_size": 250}
    probes = {"robustness": ways} if ways else None
    return spec.amended(data=data, params=params, probes=probes, gates=(), register_as=None, **changes)


class Linear(nn.Module):
    """f = w.x + b, as the logit of class 1."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(inputs, generator=generator, dtype=torch.float64)
        self.centre = torch.zeros(inputs, dtype=torch.float64)
        self.scale = torch.ones(inputs, dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        return ((inputs.double() - self.centre) / self.scale) @ self.weight


def linear_for(context: LocalContext) -> Linear:
    train = context.all_rows("train").features.astype(np.float64)
    model = Linear(train.shape[1])
    model.centre = torch.from_numpy(train.mean(axis=0))
    model.scale = torch.from_numpy(np.where(train.std(axis=0) > 0, train.std(axis=0), 1))
    return model


def moved(way: Mapping[str, Any], context: LocalContext, model: nn.Module) -> tuple[Tensor, Tensor, Rows]:
    perturbation = PerturbationSpec.model_validate(way)
    rows = context.all_rows("test")
    ball = ball_of(perturbation, context.dataset, context.all_rows("train"), "cpu")
    inputs = torch.from_numpy(rows.features)
    judge = Judge(model, context, Mitigation(context, None))
    generator = np.random.default_rng(1)
    changed = perturbed(perturbation, ball, judge, rows, inputs=inputs, generator=generator)
    return (changed - inputs) / ball.units.where(ball.units > 0, torch.ones_like(ball.units)), changed, rows


def test_on_a_linear_model_fgsm_is_the_closed_form_and_flips_exactly_what_lies_within_reach() -> None:
    """f = w.x: along the worst direction of length eps the logit moves by eps |w|, in the dual norm."""
    context = a_context(lending(EVERY))
    model = linear_for(context)
    units = ball_of(PerturbationSpec(method="fgsm", eps=1), context.dataset, context.all_rows("train"), "cpu").units[0]
    weight = torch.where(units > 0, model.weight, 0)  # inputs made of texts are not moved
    for norm, reach, direction in (
        ("linf", weight.abs().sum(), weight.sign()),
        ("l2", weight.norm(), weight / weight.norm()),
    ):
        for eps in (0.05, 0.4):
            change, changed, rows = moved({"method": "fgsm", "norm": norm, "eps": eps}, context, model)
            signs = torch.from_numpy(1 - 2 * rows.labels)[:, None]
            assert torch.allclose(change.double(), eps * signs * direction, atol=2e-3)
            before, after = model(torch.from_numpy(rows.features)), model(changed)
            assert torch.allclose(after, before + signs[:, 0] * eps * reach, atol=2e-3)
            is_safe = (before.abs() - eps * reach).abs() > 2e-3  # rounding of 32-bit inputs
            was_right = (before >= 0) == torch.from_numpy(rows.labels == 1)
            is_right = (after >= 0) == torch.from_numpy(rows.labels == 1)
            assert torch.equal((was_right & (before.abs() > eps * reach))[is_safe], is_right[is_safe])
            assert 0 < (was_right & ~is_right).sum() < len(rows)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_never_weaker_than_fgsm_on_any_row_and_stays_within_its_ball(norm: str) -> None:
    spec = lending([{"method": "fgsm", "eps": 0.3, "norm": norm}])
    context = a_context(spec)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(context.dataset.feature_shape[0], 64), nn.Tanh(), nn.Linear(64, 2))
    with torch.no_grad():
        network[0].weight.mul_(12)  # bent enough for the gradient to point elsewhere a little further on
    model = nn.Sequential(Scaled(linear_for(context)), network)
    right = {}
    for name, way in {
        "fgsm": {"method": "fgsm", "eps": 0.3, "norm": norm},
        "one start": {"method": "pgd", "eps": 0.3, "norm": norm, "steps": 3, "restarts": 1},
        "many": {"method": "pgd", "eps": 0.3, "norm": norm, "steps": 10, "restarts": 4},
    }.items():
        change, changed, rows = moved(way, context, model)
        length = change.abs().amax(dim=1) if norm == "linf" else change.norm(dim=1)
        assert length.max() <= 0.3 + 1e-3
        with torch.no_grad():
            logits = model(changed)
        right[name] = (logits.softmax(dim=1)[:, 1] >= 0.5) == torch.from_numpy(rows.labels == 1)
    assert not (right["one start"] & ~right["fgsm"]).any()
    assert not (right["many"] & ~right["fgsm"]).any()
    assert right["many"].sum() < right["fgsm"].sum()


class Scaled(nn.Module):
    def __init__(self, like: Linear) -> None:
        super().__init__()
        self.centre, self.scale = like.centre.float(), like.scale.float()

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.centre) / self.scale


def test_without_distance_nothing_changes() -> None:
    ways: Ways = [{**way, "eps": 0.0} for way in EVERY]
    spec = lending(ways)
    trained = train_here(tabular_mlp.train, spec)
    main = trained.states["test"]
    for condition in spec.conditions:
        state = trained.states[f"test@{condition}"]
        assert np.array_equal(state.counts, main.counts), condition
        assert rows_judged_otherwise(main, state) == 0
        assert state.paired is not None
        off_diagonal = state.paired * ~np.eye(state.paired.shape[2], dtype=bool)
        assert not off_diagonal.any()


def test_any_number_of_ranks_counts_the_same_bytes() -> None:
    """One model, and shares that end inside blocks."""
    spec = lending(EVERY, rows=2600)
    states = {}
    for ranks in (1, 2, 3):
        parts: dict[str, list[CountState]] = {}
        for rank in range(ranks):
            context = a_context(spec, rank=rank, world_size=ranks)
            run_probes(linear_for(context).float(), context)
            for name, state in context.states.items():
                parts.setdefault(name, []).append(state)
        states[ranks] = {name: reduce(CountState.merge, found).to_bytes() for name, found in parts.items()}
    assert len(states[1]) == len(EVERY)
    assert states[1] == states[2] == states[3]


def test_what_an_attack_costs_is_counted_for_every_group_and_on_every_row_once() -> None:
    spec = lending([{"method": "fgsm", "eps": 0.05}, {"method": "pgd", "eps": 0.3}, {"method": "noise", "eps": 0.3}])
    info = a_context(spec).dataset
    on_two = train_on_ranks("fairlead_workloads.tabular_mlp:train", [spec], ranks=2)
    for trained in (train_here(tabular_mlp.train, spec), *on_two):
        accuracy = {}
        for name, state in trained.states.items():
            assert state.n == info.num_by_split["test"]
            assert state.record_sum == info.record_sum_by_split["test"]
            assert state.record_xor == info.record_xor_by_split["test"]
            accuracy[name] = group_estimates("accuracy_score", grouping(state).counts).values[0]
        assert accuracy["test@pgd_linf_0.3"] < accuracy["test@fgsm_linf_0.05"] < accuracy["test"]
        assert accuracy["test@pgd_linf_0.3"] < accuracy["test@noise_0.3"]
        groups = grouping(trained.states["test@pgd_linf_0.3"], ("sex",))
        assert groups.sizes[:2].min() > 100


def test_pictures_stay_within_the_range_of_their_values() -> None:
    spec = from_yaml(ExperimentSpec, find_specs()["digits"].read_text())
    ways = [{"method": "pgd", "eps": 0.1, "steps": 4, "restarts": 1}, {"method": "noise", "eps": 0.5}]
    spec = spec.amended(params={**spec.params, "epochs": 1, "width": 8}, probes={"robustness": ways}, gates=())
    trained = train_here(image_cnn.train, spec)
    accuracy = {
        name: group_estimates("accuracy_score", grouping(state).counts).values[0]
        for name, state in trained.states.items()
    }
    assert accuracy["test@pgd_linf_0.1"] < accuracy["test"]
    context = a_context(spec)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(context.dataset.feature_shape)), 10))
    low, high = (float(getattr(context.all_rows("train").features, which)()) for which in ("min", "max"))
    for way in ways:
        _, changed, rows = moved(way, context, model)
        assert changed.min() >= low
        assert changed.max() <= high
        assert not torch.equal(changed, torch.from_numpy(rows.features))


def test_inputs_made_of_texts_are_left_alone() -> None:
    spec = lending(EVERY)
    told = ["income", "savings", "part_time", "sex"]
    context = a_context(spec.amended(data={**spec.data.model_dump(), "features": told}))
    features = context.dataset.features
    is_text = np.concatenate([np.full(max(1, len(each.levels)), bool(each.levels)) for each in features])
    assert is_text.tolist() == [False, False, False, True, True]
    for way in EVERY:
        change, _, _ = moved(way, context, linear_for(context))
        assert not change[:, is_text].any()
        assert change[:, ~is_text].any()


def test_where_no_input_can_be_changed_it_says_so() -> None:
    spec = lending(EVERY)
    context = a_context(spec)
    rows = context.all_rows("train")
    constant = Rows(records=rows.records, features=np.ones_like(rows.features), labels=rows.labels)
    with pytest.raises(BadData, match="no input that could be changed"):
        ball_of(PerturbationSpec(method="fgsm", eps=1), context.dataset, constant, "cpu")


def test_a_condition_nobody_asked_for_is_refused() -> None:
    context = a_context(lending([{"method": "fgsm", "eps": 0.1}]))
    rows = context.shard("test")
    with pytest.raises(BadInput, match=r"no condition 'fgsm_linf_0.2', only fgsm_linf_0\.1"):
        context.evaluate("test", records=rows.records, predictions=rows.labels, condition="fgsm_linf_0.2")


# ---- drift ---------------------------------------------------------------------------------------------------------


def drift_of(spec: ExperimentSpec, **options: Any) -> dict[str, Any]:
    context = a_context(spec, **options)
    run_probes(linear_for(context), context)
    found: dict[str, Any] = context.measurements["drift"]
    return found


def test_drift_counts_every_column_of_both_splits_in_the_bins_of_the_train_split() -> None:
    spec = lending([]).amended(probes={"drift": {}})
    found = drift_of(spec)
    info = a_context(spec).dataset
    kinds = {one["name"]: one["kind"] for one in found["columns"]}
    sensitive = {"sex": "sensitive", "age_band": "sensitive"}
    assert kinds == {one.name: "number" for one in info.features} | sensitive | {info.target: "target"}
    for one in found["columns"]:
        assert sum(one["train"]) == found["n_train"] == info.num_by_split["train"]
        assert sum(one["test"]) == found["n_test"] == info.num_by_split["test"]
    income = next(one for one in found["columns"] if one["name"] == "income")
    assert (income["train"][0], income["train"][-1]) == (0, 0)  # below and above all of them
    assert max(income["train"]) - min(income["train"][1:-1]) <= 2  # quantiles
    section = Measurements(asked=spec.measured, found={"drift": found}).sections["drift"]
    assert section["why_not_measured"] is None
    assert section["n_beyond_chance"] == 0  # one generator made both splits


@pytest.mark.parametrize(
    ("train", "test", "label"),
    [([0], [5], "above 0"), ([0], [-5], "below 0"), ([0, 1], [0, 100], "above 1"), (range(40), [41], "above 39")],
)
def test_rows_outside_of_what_was_trained_on_do_not_pass(train: Any, test: Any, label: str) -> None:
    context = a_context(lending([], rows=1500).amended(probes={"drift": {}}))
    info, parts = context.dataset, {}
    for split, values in {"train": train, "test": test}.items():
        rows = context.all_rows(split)
        features = np.zeros_like(rows.features)
        features[:, 0] = np.resize(np.array(values), len(rows))
        parts[split] = Rows(records=rows.records, features=features, labels=rows.labels)
    counter = DriftCounter(info, parts["train"])
    counts = [counter.count(rows, np.zeros((len(rows), 2), dtype=np.int64)) for rows in parts.values()]
    found = counter.counts(*counts).model_dump(mode="json")
    section = Measurements(asked={"drift": DriftSpec()}, found={"drift": found}).sections["drift"]
    first, *_ = section["columns"]
    assert first["name"] == info.features[0].name
    moved = {one["label"]: (one["train"], one["test"]) for one in first["bins"]}
    assert moved[label][0] == 0 < moved[label][1]
    assert section["metrics"]["drift_psi_max"]["lower95"] > 0.25
    others = [one for one in section["columns"] if one["kind"] == "number"][1:]
    assert {one["psi"] for one in others} == {0.0}  # constant in both


def test_ranks_count_the_same_drift_together_as_one_alone() -> None:
    spec = lending([{"method": "noise", "eps": 0.1}], rows=1500)
    spec = spec.amended(probes={**spec.probes.model_dump(), "drift": {}})  # type: ignore[union-attr]
    (together,) = train_on_ranks("fairlead_workloads.tabular_mlp:train", [spec], ranks=2)
    assert together.measurements["drift"] == train_here(tabular_mlp.train, spec).measurements["drift"]


def test_pictures_are_compared_by_brightness_and_contrast() -> None:
    spec = from_yaml(ExperimentSpec, find_specs()["digits"].read_text()).amended(probes={"drift": {}}, gates=())
    context = a_context(spec)
    run_probes(nn.Flatten(), context)
    columns = context.measurements["drift"]["columns"]
    assert [one["name"] for one in columns[:2]] == ["brightness", "contrast"]
    assert sum(columns[0]["test"]) == context.dataset.num_by_split["test"]


# ---- temperature ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "truth"), [(2, 2.5), (5, 0.4)])
def test_the_temperature_that_made_the_labels_is_found_and_is_scipys(classes: int, truth: float) -> None:
    generator = np.random.default_rng(8)
    logits = generator.normal(size=(40_000, classes)) * 3
    shares = np.exp(logits / truth) / np.exp(logits / truth).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) < generator.random(len(logits))[:, None]).sum(axis=1)
    found = lowest_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert found.temperature == pytest.approx(truth, rel=0.04)

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    assert found.temperature == pytest.approx(best.x, rel=1e-5)
    assert found.log_loss_after == pytest.approx(best.fun, abs=1e-10)
    assert found.log_loss_before == pytest.approx(loss(1.0), abs=1e-10)


def test_where_the_loss_falls_without_end_the_temperature_stays_one_with_a_reason() -> None:
    """All right: it falls with T to 0. All wrong: it falls with T to infinity. One of each: there is a lowest point."""
    logits = torch.tensor([[1.0, -1.0], [-2.0, 1.0]] * 15, dtype=torch.float64)
    right, wrong, mixed = (lowest_loss(logits, torch.tensor(labels * 15)) for labels in ([0, 1], [1, 0], [1, 1]))
    for found in (right, wrong):
        assert (found.temperature, found.log_loss_after) == (1.0, found.log_loss_before)
    assert "every validation row is predicted right" in str(right.reason)
    assert "no better than chance" in str(wrong.reason)
    assert mixed.reason is None
    assert mixed.temperature != 1


def test_a_temperature_that_could_not_be_fitted_is_explained_in_the_report_and_on_the_page() -> None:
    spec = tempered(apply=True)
    trained = train_here(tabular_mlp.train, spec)
    logits = torch.tensor([[1.0, -1.0]] * 30, dtype=torch.float64)
    fitted = lowest_loss(logits, torch.zeros(30, dtype=torch.int64)).model_dump(mode="json")
    report = build_report(
        trained.states["test"],
        provenance=a_provenance(n_expected=trained.states["test"].n),
        evaluation=spec.evaluation,
        probes=spec.probes,
        conditions={"uncalibrated": trained.states["test@uncalibrated"]},
        measurements=Measurements(asked=spec.measured, found={"temperature": fitted}),
    )
    jsonschema.validate(report, report_schema())
    assert "every validation row is predicted right" in report["temperature"]["reason"]
    assert "No temperature could be fitted, and it stays 1: every validation row" in render_page(report)


def tempered(apply: bool) -> ExperimentSpec:
    """Enough training for a wide network to become too sure of itself."""
    spec = lending([], rows=1200).amended(probes={"temperature": {"apply": apply}})
    return spec.amended(params={"hidden": [128], "epochs": 60, "batch_size": 60, "dropout": 0.0, "weight_decay": 0.0})


def test_what_is_counted_is_what_the_exported_model_answers(tmp_path: Path) -> None:
    spec = tempered(apply=True)
    trained = train_here(tabular_mlp.train, spec, export_to=tmp_path / "model")
    fitted = trained.measurements["temperature"]
    assert fitted["temperature"] != 1
    assert fitted["log_loss_after"] < fitted["log_loss_before"]
    context = a_context(spec)
    rows = context.shard("test")
    scores = tabular_mlp.load(tmp_path / "model")(rows.features)[:, 1]
    predictions = (scores >= 0.5).astype(np.int64)
    context.evaluate("test", records=rows.records, predictions=predictions, scores=scores)
    assert context.states["test"].to_bytes() == trained.states["test"].to_bytes()
    plain = trained.states["test@uncalibrated"]
    assert np.array_equal(plain.counts, trained.states["test"].counts)  # no decision moves
    assert not np.array_equal(plain.calibration, trained.states["test"].calibration)


def test_a_temperature_that_is_not_applied_changes_nothing_but_the_report() -> None:
    spec = tempered(apply=False)
    trained, without = train_here(tabular_mlp.train, spec), train_here(tabular_mlp.train, spec.amended(probes=None))
    assert trained.states["test"].to_bytes() == without.states["test"].to_bytes()
    report = build_report(
        trained.states["test"],
        provenance=a_provenance(n_expected=trained.states["test"].n),
        evaluation=spec.evaluation,
        probes=spec.probes,
        conditions={"calibrated": trained.states["test@calibrated"]},
        measurements=Measurements(asked=spec.measured, found=trained.measurements),
    )
    jsonschema.validate(report, report_schema())
    section = report["temperature"]
    overall = next(one for one in section["comparison"] if not one["by"])["metrics"]
    by_group = next(group for group in report["groups"] if not group["by"])["metrics"]
    assert overall["log_loss"]["before"] == by_group["log_loss"]
    assert overall["log_loss"]["after"]["value"] != overall["log_loss"]["before"]["value"]
    page = render_page(report)
    assert "The model does not use it." in page
    assert "Reliability on the test rows" in page


@pytest.mark.parametrize("apply", [True, False])
def test_thresholds_of_groups_decide_on_the_scores_they_were_chosen_for(apply: bool) -> None:
    spec = tempered(apply).amended(mitigation={"method": "thresholds", "by": ["sex"]})
    trained = train_here(tabular_mlp.train, spec)
    other = trained.states["test@uncalibrated" if apply else "test@calibrated"]
    assert trained.measurements["temperature"]["temperature"] != 1
    assert np.array_equal(other.counts, trained.states["test"].counts)
    assert not np.array_equal(other.calibration, trained.states["test"].calibration)


def test_an_export_without_the_temperature_it_was_counted_with_is_refused() -> None:
    context = a_context(tempered(apply=True))
    with pytest.raises(BadInput, match="the temperature is missing"):
        context.export({}, config={})
    with pytest.raises(BadInput, match="call fit_temperature before counting"):
        run_probes(linear_for(context), context)
    assert fit_temperature(linear_for(context), context).config().keys() == {"temperature"}


def test_ranks_fit_one_temperature_together() -> None:
    spec = lending([], rows=1500).amended(probes={"temperature": {}})
    (together,) = train_on_ranks("fairlead_workloads.tabular_mlp:train", [spec], ranks=2)
    alone = train_here(tabular_mlp.train, spec)
    fitted = [one.measurements["temperature"] for one in (together, alone)]
    assert fitted[0]["n_validation"] == fitted[1]["n_validation"]
    assert fitted[0]["temperature"] == pytest.approx(fitted[1]["temperature"], rel=1e-3)  # the models are not one
    assert together.states["test@uncalibrated"].n == alone.states["test@uncalibrated"].n


# ---- explanations --------------------------------------------------------------------------------------------------


def importance_of(spec: ExperimentSpec, model_of: Callable[[LocalContext], Linear]) -> dict[str, Any]:
    context = a_context(spec)
    run_probes(model_of(context), context)
    found: dict[str, Any] = context.measurements["explanations"]
    return found


def one_column(context: LocalContext) -> Linear:
    """A model that looks at income alone."""
    model = linear_for(context)
    names = [feature.name for feature in context.dataset.features]
    model.weight = torch.tensor([2.0 if name == "income" else 0.0 for name in names], dtype=torch.float64)
    return model


def test_only_the_columns_a_model_looks_at_are_worth_anything_to_it() -> None:
    spec = lending([], rows=3000).amended(probes={"explanations": {}})
    found = importance_of(spec, one_column)
    section = Measurements(asked=spec.measured, found={"explanations": found}).sections["explanations"]
    first, *others = section["columns"]
    overall = first["groups"][0]
    assert (first["name"], overall["n"]) == ("income", a_context(spec).dataset.num_by_split["test"])
    assert 0.05 < overall["interval"][0] < overall["lower95"] < overall["lost"] < overall["interval"][1]
    for other in others:
        assert other["groups"][0]["lost"] == 0
        assert other["groups"][0]["interval"][0] < 0 < other["groups"][0]["interval"][1]


def test_importance_is_the_accuracy_of_a_table_with_one_column_shuffled() -> None:
    """The same by hand, in one piece, with the deal that the seed gives."""
    spec = lending([], rows=2600).amended(probes={"explanations": {}})
    found, context = importance_of(spec, linear_for), a_context(spec)
    rows, model = context.all_rows("test"), linear_for(context)

    def is_right(features: np.ndarray) -> np.ndarray:
        return (model(torch.from_numpy(features)).numpy() >= 0) == (rows.labels == 1)

    for number, column in enumerate(found["columns"]):
        dealt = np.random.default_rng((context.seed, number, len(rows))).permutation(len(rows))
        shuffled = rows.features.copy()
        shuffled[:, number] = shuffled[dealt, number]
        before, after = is_right(rows.features), is_right(shuffled)
        both, only_before, only_after, never = column["counts"][0]
        assert (both, only_before) == ((before & after).sum(), (before & ~after).sum())
        assert (only_after, never) == ((~before & after).sum(), (~before & ~after).sum())
        levels = zip(column["counts"], found["groups"], strict=True)
        by_sex = [counts for counts, group in levels if "sex" in group["by"]]
        assert np.sum(by_sex, axis=0).tolist() == list(column["counts"][0])


def test_explanations_stand_in_the_report_and_on_the_page_and_ranks_count_them_together() -> None:
    spec = lending([], rows=1500).amended(probes={"explanations": {}})
    trained = train_here(tabular_mlp.train, spec)
    report = build_report(
        trained.states["test"],
        provenance=a_provenance(n_expected=trained.states["test"].n),
        evaluation=spec.evaluation,
        probes=spec.probes,
        measurements=Measurements(asked=spec.measured, found=trained.measurements),
    )
    jsonschema.validate(report, report_schema())
    assert "explanations" not in report["not_measured"]
    page = render_page(report)
    assert "What the model goes by" in page
    assert "By age_band" in page
    (together,) = train_on_ranks("fairlead_workloads.tabular_mlp:train", [spec], ranks=2)
    found = together.measurements["explanations"]
    assert found["n"] == trained.measurements["explanations"]["n"]
    assert all(sum(column["counts"][0]) == found["n"] for column in found["columns"])


def test_pictures_have_no_columns_to_shuffle() -> None:
    spec = from_yaml(ExperimentSpec, find_specs()["digits"].read_text()).amended(probes={"explanations": {}}, gates=())
    with pytest.raises(BadData, match="these data are pictures"):
        a_context(spec)


@pytest.mark.parametrize(
    ("probes", "features", "levels", "message"),
    [
        ({"drift": {}}, [("", 1601)], 3, "1600 columns of numbers at most, and there are 1601"),
        ({"drift": {}}, [("", 3)], 300_000, "more levels than drift can hold"),
        ({"robustness": EVERY}, [("text", 3)], 3, "all are texts"),
        ({"explanations": {}}, [("", 2000)], 10_000, "more columns and levels than explanations can hold"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_anything_is_trained(
    probes: dict[str, Any], features: list[tuple[str, int]], levels: int, message: str
) -> None:
    ((kind, num),) = features
    columns = tuple(
        FeatureColumn(name=f"c{at}", dtype="float32", levels=("a", "b") if kind else ()) for at in range(num)
    )
    wide = widened(columns, levels)
    origin = Origin(workload="w", module="m", params={})
    with pytest.raises(BadData, match=message):
        LocalContext(dataset=wide, origin=origin, outlet=KeepingOutlet(), probes=ProbesSpec.model_validate(probes))
    LocalContext(dataset=wide, origin=origin, outlet=KeepingOutlet())


def widened(columns: tuple[FeatureColumn, ...], num_levels: int) -> Dataset:
    dataset = open_dataset(lending([]).data)
    attributes = (Attribute(name="town", levels=tuple(f"town {at}" for at in range(num_levels))),)
    codes = (np.arange(len(dataset.codes)) % num_levels).astype(np.int16)[:, None]
    return replace(dataset, info=replace(dataset.info, features=columns, attributes=attributes), codes=codes)


def test_an_attribute_of_many_levels_is_explained_by_those_with_most_rows() -> None:
    dataset = widened(open_dataset(lending([]).data).info.features, 10_000)
    probes = ProbesSpec.model_validate({"explanations": {}, "drift": {}})
    origin = Origin(workload="w", module="m", params={})
    context = LocalContext(dataset=dataset, origin=origin, outlet=KeepingOutlet(), probes=probes)
    run_probes(linear_for(context), context)
    found = context.measurements["explanations"]
    assert len(found["groups"]) == 1 + MOST_LEVELS
    assert found["left_out"] == {"town": context.dataset.num_by_split["test"] - MOST_LEVELS}
    sections = Measurements(asked=probes.measured, found={"explanations": found}).sections
    section = sections["explanations"]
    assert all(group["n"] for group in section["columns"][0]["groups"])
    assert section["left_out"] == found["left_out"]
