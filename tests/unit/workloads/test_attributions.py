"""Integrated gradients: against closed forms, against their own completeness, and on any number of ranks."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairlead.attributions import BLOCK_ROWS, Tally, answers_of, attributed, baseline_of, drawn
from fairlead.data import find_specs
from fairlead.data.context import LocalContext
from fairlead.data.probes import attributed_features
from fairlead.errors import BadData, BadInput
from fairlead.evaluation import Measurements, build_report, report_schema
from fairlead.evaluation.page import render_page
from fairlead.probes import run_probes
from fairlead.spec import AttributionsSpec, ExperimentSpec, from_yaml
from fairlead.testing.context import a_context, train_here, train_on_ranks
from fairlead.testing.evaluation import a_provenance
from fairlead.testing.probed import BentModel
from fairlead.workload import Attribute
from fairlead_workloads import tabular_mlp


def lending(*, features: tuple[str, ...] | None = None, **asked: Any) -> ExperimentSpec:
    spec = from_yaml(ExperimentSpec, find_specs()["lending"].read_text())
    data = {**spec.data.model_dump(), "uri": "builtin://lending?rows=1500"}
    data |= {"features": features} if features else {}
    params = {**spec.params, "epochs": 2, "batch_size": 250}
    return spec.amended(data=data, params=params, probes={"attributions": asked}, gates=(), register_as=None)


def digits(**asked: Any) -> ExperimentSpec:
    spec = from_yaml(ExperimentSpec, find_specs()["digits"].read_text())
    return spec.amended(probes={"attributions": asked}, gates=())


class Linear(nn.Module):
    """f = w.x - 1, as the logit of class 1."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = torch.linspace(-2, 3, inputs, dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.double() @ self.weight - 1


def sums_of(spec: ExperimentSpec, model: Callable[[Tensor], Tensor] | None = None, **options: Any) -> dict[str, Any]:
    context = a_context(spec, **options)
    run_probes(model or BentModel(context.all_rows("train")), context)
    found: dict[str, Any] = context.measurements["attributions"]
    return found


def section_of(spec: ExperimentSpec, found: dict[str, Any]) -> dict[str, Any]:
    return Measurements(asked=spec.measured, found={"attributions": found}).sections["attributions"]


def inputs_of(context: LocalContext) -> int:
    return context.dataset.feature_shape[0]


# ---- closed forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("target", ["predicted", "positive"])
def test_of_a_linear_model_the_attribution_is_weight_times_distance_from_the_baseline(
    baseline: str, target: str
) -> None:
    spec = lending(baseline=baseline, target=target, rows=400)
    context = a_context(spec)
    model = Linear(inputs_of(context))
    sums = sums_of(spec, model)
    rows = drawn(context.all_rows("test"), 400, seed=context.seed).features.astype(np.float64)
    start = context.all_rows("train").features.astype(np.float64).mean(axis=0) if baseline == "mean" else 0.0
    expected = model.weight.numpy() * (rows - start)
    if target == "predicted":  # the log-odds of class 0 are those of class 1 with another sign
        expected *= np.where(rows @ model.weight.numpy() - 1 >= 0, 1, -1)[:, None]
    assert sums["n"] == len(rows) == 400
    for at, feature in enumerate(sums["features"]):
        values = expected[:, at]
        totals = [np.abs(values).sum(), values.sum(), (values**2).sum()]
        assert feature["sums"][0] == pytest.approx(totals, rel=1e-5, abs=1e-5 * totals[0])
    assert sums["error_largest"] <= 1e-5 * np.abs(expected).sum(axis=1).max()


def test_each_row_has_its_own_closed_form() -> None:
    model = Linear(3)
    inputs = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 4.0]])
    found = attributed(
        answers_of(lambda rows: torch.stack([torch.zeros(len(rows)), model(rows)], dim=1), num_classes=2),
        inputs,
        baseline=torch.ones(1, 3),
        classes=np.array([1, 0]),
        steps=2,
    )
    weight = model.weight.numpy()
    expected = np.stack([weight * [0, 1, -2], -weight * [-1, -1, 3]])
    assert np.allclose(found.values, expected, atol=1e-5)
    assert np.allclose(found.changes, expected.sum(axis=1), atol=1e-5)


def test_one_logit_and_two_whose_difference_it_is_have_the_same_attributions() -> None:
    spec = lending(rows=200)
    bent = BentModel(a_context(spec).all_rows("train"))

    class Single(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            found = bent(inputs)
            return found[:, 1] - found[:, 0]

    one, two = sums_of(spec, Single()), sums_of(spec, bent)
    for first, second in zip(one["features"], two["features"], strict=True):
        assert np.allclose(first["sums"], second["sums"], rtol=1e-5)


# ---- completeness --------------------------------------------------------------------------------------------------


def test_the_completeness_error_of_a_bent_model_falls_with_the_steps() -> None:
    errors = {}
    for steps in (1, 2, 4, 8, 50):
        spec = lending(rows=300, steps=steps, baseline="mean")
        completeness = section_of(spec, sums_of(spec))["completeness"]
        errors[steps] = completeness["mean_error"]
        assert completeness["largest_error"] >= completeness["mean_error"] > 0
        assert completeness["mean_change"] > 1
    assert errors[1] > 2 * errors[2] > 4 * errors[4] > 8 * errors[8]
    assert errors[50] < 1e-4


def test_attributions_of_a_row_add_up_to_the_change_of_its_answer() -> None:
    context = a_context(lending(baseline="mean"))
    model = BentModel(context.all_rows("train"))
    inputs = torch.from_numpy(context.all_rows("test").features[:100])
    baseline = baseline_of(AttributionsSpec(baseline="mean"), context)
    outputs = answers_of(model, num_classes=2)
    classes = np.arange(100) % 2
    found = attributed(outputs, inputs, baseline=baseline, classes=classes, steps=100)
    change = (outputs(inputs) - outputs(baseline)).numpy()[np.arange(100), classes]
    assert np.allclose(found.values.sum(axis=1), change, atol=1e-4)
    assert np.allclose(found.values.sum(axis=1) - change, found.errors, atol=1e-5)


# ---- ranks, rows, groups -------------------------------------------------------------------------------------------


def test_any_number_of_ranks_finds_the_same_to_the_last_digit() -> None:
    """Real processes; the blocks are more than ranks, and no multiple of them."""
    spec = lending(rows=4 * BLOCK_ROWS + 10)
    found = {1: sums_of(spec)}
    for ranks in (2, 3):
        (trained,) = train_on_ranks("fairlead.testing.probed:train", [spec], ranks=ranks)
        found[ranks] = trained.measurements["attributions"]
    assert found[1]["n"] == 4 * BLOCK_ROWS + 10
    assert found[1] == found[2] == found[3]


def test_rows_are_drawn_by_the_seed_and_each_once() -> None:
    context = a_context(lending())
    rows = context.all_rows("test")
    first, again, other = (drawn(rows, 100, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.records, again.records)
    assert not np.array_equal(first.records, other.records)
    assert len(set(first.records.tolist())) == 100
    places = np.searchsorted(rows.records, first.records)
    assert np.array_equal(first.features, rows.features[places])
    assert drawn(rows, len(rows), seed=1) is rows


def test_groups_add_up_to_all_rows() -> None:
    spec = lending(rows=250)
    sums = sums_of(spec)
    for attribute in ("sex", "age_band"):
        places = [at for at, group in enumerate(sums["groups"]) if group["by"] == [attribute]]
        assert sum(sums["rows"][at] for at in places) == sums["rows"][0] == 250
        for feature in sums["features"]:
            by_group = np.sum([feature["sums"][at] for at in places], axis=0)
            assert np.allclose(by_group, feature["sums"][0])


def test_what_a_column_of_texts_is_made_of_is_added_up() -> None:
    spec = lending(features=("income", "part_time", "sex"), rows=200)
    context = a_context(spec)
    assert inputs_of(context) == 4
    model = Linear(4)
    rows = drawn(context.all_rows("test"), 200, seed=context.seed).features.astype(np.float64)
    each = model.weight.numpy() * rows
    sums = sums_of(spec.amended(probes={"attributions": {"rows": 200, "target": "positive"}}), model)
    assert [feature["name"] for feature in sums["features"]] == ["income", "part_time", "sex"]
    of_sex = each[:, 2:].sum(axis=1)
    assert sums["features"][2]["sums"][0][:2] == pytest.approx([np.abs(of_sex).sum(), of_sex.sum()], rel=1e-5)
    assert sums["share"]["columns"] == ["sex"]  # sensitive, and an input
    whole = np.abs(each[:, :2]).sum(axis=1) + np.abs(of_sex)
    assert sums["share"]["whole"] == pytest.approx(whole.sum(), rel=1e-5)
    assert sums["share"]["part"] == pytest.approx(np.abs(of_sex).sum(), rel=1e-5)


def test_a_row_without_finite_attributions_is_said_and_nothing_is_measured() -> None:
    spec = lending(rows=100)
    context = a_context(spec)
    names = [feature.name for feature in context.dataset.features]
    income = drawn(context.all_rows("test"), 100, seed=context.seed).features[:, names.index("income")]
    limit = float(np.sort(income)[-4:-2].mean())

    class Broken(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.sqrt(limit - inputs[:, names.index("income")])

    section = section_of(spec, sums_of(spec, Broken()))
    assert "3 of 100 rows have attributions or answers that are no finite numbers" in section["why_not_measured"]
    assert section["metrics"]["completeness_error"]["value"] is None


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_a_part_of_a_picture_is_not_the_attribute_that_is_called_like_it() -> None:
    info = a_context(digits()).dataset
    hands = replace(info, attributes=(Attribute(name="left", levels=("no", "yes")),))
    codes = np.zeros((4, 1), dtype=np.int64)
    of_nothing, of_part = (
        Tally(hands, AttributionsSpec(share_of=named), codes).total(n=0, n_split=4).share.columns
        for named in ((), ("left",))
    )
    assert (of_nothing, of_part) == ((), ("left",))


def test_pictures_have_three_by_three_parts_which_add_up_to_the_change_of_the_answer() -> None:
    spec = digits(rows=70, steps=20)
    context = a_context(spec)
    torch.manual_seed(0)
    size = int(np.prod(context.dataset.feature_shape))
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, 20), nn.Tanh(), nn.Linear(20, 10))
    sums = sums_of(spec, model)
    names = [feature["name"] for feature in sums["features"]]
    assert (len(names), names[0], names[4], names[8]) == (9, "top left", "middle", "bottom right")
    assert sums["kind"] == "part"
    inputs = torch.from_numpy(drawn(context.all_rows("test"), 70, seed=context.seed).features)
    with torch.no_grad():
        logits = model(inputs).numpy()
        change = logits.max(axis=1) - model(torch.zeros_like(inputs)).numpy()[np.arange(70), logits.argmax(axis=1)]
    signed = sum(feature["sums"][0][1] for feature in sums["features"])
    assert signed == pytest.approx(change.sum(), abs=70 * sums["error_largest"] + 1e-3)


def test_the_parts_of_a_picture_hold_each_pixel_of_all_channels_once() -> None:
    spec = digits()
    context = a_context(spec)
    names, numbers = attributed_features(context.dataset)
    channels, height, width = context.dataset.feature_shape
    table = numbers.reshape(channels, height, width)
    assert len(names) == 9
    assert (table == table[0]).all()
    assert table[0, 0, 0] == 0
    assert table[0, height // 2, width // 2] == 4
    assert table[0, -1, -1] == 8


# ---- what cannot be done -------------------------------------------------------------------------------------------


def test_data_that_do_not_fit_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(BadData, match="of 10 classes none is the positive one: take target predicted"):
        a_context(digits(target="positive"))
    with pytest.raises(BadData, match=r"share_of names \['heigth'\], which is no input: there are income"):
        a_context(lending(share_of=("heigth",)))


def test_without_captum_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(BadInput, match=r"captum is not installed on this node: install fairlead\[explain\]"):
        a_context(lending())
    a_context(lending().amended(probes={"explanations": {}}))  # nobody else needs it


def test_captum_is_loaded_only_where_attributions_are_asked_for() -> None:
    script = """
import sys
from collections.abc import Callable
from fairlead.data import find_specs
from fairlead.probes import run_probes
from fairlead.spec import ExperimentSpec, from_yaml
from fairlead.testing.context import a_context
from fairlead.testing.probed import BentModel

spec = from_yaml(ExperimentSpec, find_specs()["lending"].read_text())
data = {**spec.data.model_dump(), "uri": "builtin://lending?rows=1500"}
for probes in ({"explanations": {}, "drift": {}}, {"attributions": {"rows": 10}}):
    context = a_context(spec.amended(data=data, probes=probes, gates=(), register_as=None))
    run_probes(BentModel(context.all_rows("train")), context)
    print("captum" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split() == ["False", "True"]


# ---- report --------------------------------------------------------------------------------------------------------


def test_attributions_stand_in_the_report_and_on_the_page() -> None:
    asked = {"baseline": "mean", "rows": 200, "share_of": ["income", "savings"]}
    gates = [
        {"metric": "completeness_error", "require": "<= 0.01"},
        {"id": "little", "metric": "attribution_share", "require": "<= 0.001"},
        {"id": "much", "metric": "attribution_share", "require": "<= 0.999"},
    ]
    spec = lending(**asked).amended(gates=gates, evaluation={"confidence": 0.9, "groupings": [["sex"]]})
    trained = train_here(tabular_mlp.train, spec)
    report = build_report(
        trained.states["test"],
        provenance=a_provenance(n_expected=trained.states["test"].n),
        evaluation=spec.evaluation,
        gates=spec.gates,
        probes=spec.probes,
        measurements=Measurements(asked=spec.measured, found=trained.measurements),
    )
    jsonschema.validate(report, report_schema())
    assert "attributions" not in report["not_measured"]
    assert [gate["outcome"] for gate in report["gates"]] == ["pass", "fail", "pass"]
    section = report["attributions"]
    assert (section["n"], section["n_split"]) == (200, trained.states["test"].n)
    page = render_page(report)
    assert "What each answer is made of" in page
    assert "for 200 rows that were drawn from the" in page
    assert "falls on income and savings" in page
    assert "two-sided 90 % interval" in page
