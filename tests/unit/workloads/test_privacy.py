"""Differential privacy: what it costs by opacus's own word, what one row can do, and who is told off."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant

from fairlead.data import open_dataset
from fairlead.data.context import KeepingOutlet
from fairlead.data.export import read_model
from fairlead.errors import BadData, BadInput
from fairlead.evaluation import Measurements, evaluate_gates
from fairlead.privacy import begin_privacy
from fairlead.spec import EvaluationSpec, ExperimentSpec, GateSpec
from fairlead.testing import private
from fairlead.testing.context import a_context, train_here, train_on_ranks
from fairlead_workloads import image_cnn, tabular_mlp

DATA = {"uri": "builtin://diabetes", "sensitive": ["sex"]}
ROWS = 265


def a_spec(*, workload: str = "tabular_mlp", data: dict[str, Any] = DATA, **changes: Any) -> ExperimentSpec:
    plain = {"name": "a", "workload": workload, "data": data, "params": {"epochs": 2}, "seed": 3}
    return ExperimentSpec.model_validate({**plain, "privacy": {"noise_multiplier": 1.0}, **changes})


def one_step(noise: float = 1e-9, clip: float = 1.0, **params: Any) -> ExperimentSpec:
    asked = {"noise_multiplier": noise, "max_grad_norm": clip}
    return a_spec(workload="fairlead.testing.private:train", params=params, privacy=asked)


def opacus_epsilon(*, noise: float, rate: float, steps: int, delta: float = 1e-5) -> float:
    accountant = RDPAccountant()
    for _ in range(steps):
        accountant.step(noise_multiplier=noise, sample_rate=rate)
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize(("noise", "batch_size", "epochs"), [(1.0, 64, 2), (0.6, 32, 3), (4.0, 265, 1)])
def test_epsilon_is_that_of_opacus_own_accountant(noise: float, batch_size: int, epochs: int) -> None:
    params = {"epochs": epochs, "batch_size": batch_size}
    trained = train_here(tabular_mlp.train, a_spec(params=params, privacy={"noise_multiplier": noise}))
    steps = epochs * -(-ROWS // batch_size)
    expected = opacus_epsilon(noise=noise, rate=batch_size / ROWS, steps=steps)
    found = trained.measurements["privacy"]
    assert found["epsilon"] == pytest.approx(expected, rel=1e-12)
    assert (found["steps"], found["records"], found["sampling"]) == (steps, ROWS, "poisson")
    assert trained.reports[-1][1]["privacy/epsilon"] == found["epsilon"]


@pytest.mark.parametrize("target", [0.05, 3])
def test_a_target_is_kept_and_nearly_used_up(target: float) -> None:
    found = train_here(tabular_mlp.train, a_spec(privacy={"target_epsilon": target})).measurements["privacy"]
    assert 0.99 * target < found["epsilon"] <= target


def test_two_ranks_are_as_private_as_one_and_clip_each_record() -> None:
    specs = [one_step(factor=1e6), one_step(), a_spec()]
    apart = [train_here(private.train, spec) for spec in specs[:2]]
    together = train_on_ranks("fairlead.testing.private:train", specs[:2], ranks=2)
    for alone, both in zip(apart, together, strict=True):
        assert change(both) == pytest.approx(change(alone), abs=1e-6)
        assert both.measurements == alone.measurements
    page = train_on_ranks("fairlead_workloads.tabular_mlp:train", specs[2:], ranks=2)[0]
    assert page.measurements == train_here(tabular_mlp.train, specs[2]).measurements


def test_batches_that_are_empty_on_a_rank_or_on_all_are_steps_as_well() -> None:
    spec = a_spec(params={"epochs": 1, "batch_size": 1})
    (trained,) = train_on_ranks("fairlead_workloads.tabular_mlp:train", [spec], ranks=2)
    expected = opacus_epsilon(noise=1.0, rate=1 / ROWS, steps=ROWS)
    assert trained.measurements["privacy"]["epsilon"] == pytest.approx(expected)
    assert trained.states["test"].n == 133


def change(trained: Any) -> np.ndarray:
    return np.array([value for name, value in trained.reports[-1][1].items() if name.startswith("change/")])


@pytest.mark.parametrize("factor", [1.0, 1e6])
@pytest.mark.parametrize("clip", [0.5, 1e5])
def test_the_gradient_of_each_record_is_clipped_before_they_are_added(factor: float, clip: float) -> None:
    """The gradient of a row is its features; by hand: each at most ``clip`` long, their sum over the batch's size."""
    spec = one_step(factor=factor, clip=clip)
    gradients = a_context(spec).all_rows("train").features.astype(np.float64)
    gradients[0] *= factor
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    expected = -(gradients * np.minimum(1, clip / norms)).sum(axis=0) / ROWS
    assert change(train_here(private.train, spec)) == pytest.approx(expected, rel=1e-4, abs=1e-4 * clip / ROWS)


def test_noise_is_added_once_whatever_the_number_of_ranks() -> None:
    """Where no row has a gradient the change is noise alone: standard deviation noise * clip / batch."""
    spec = one_step(noise=2.0, clip=3.0, scale=0.0, outputs=500)
    expected = 2.0 * 3.0 / ROWS
    for trained in (
        train_here(private.train, spec),
        *train_on_ranks("fairlead.testing.private:train", [spec], ranks=2),
    ):
        noise = change(trained)
        assert len(noise) > 4000
        assert noise.std() == pytest.approx(expected, rel=0.06)
        assert abs(noise.mean()) < 5 * expected / len(noise) ** 0.5


def test_the_seed_does_not_give_the_noise_away() -> None:
    spec = one_step(noise=1.0)
    assert not np.allclose(change(train_here(private.train, spec)), change(train_here(private.train, spec)))


def test_batches_are_drawn_by_poisson_sampling_and_shared_among_ranks_without_overlap() -> None:
    context = a_context(a_spec())
    privacy = begin_privacy(context, rows=1000, batch_size=100, epochs=200)
    optimizer = privacy.optimizer(_optimizer(privacy))
    sizes, seen = [], np.zeros(1000)
    for epoch in range(20):
        for batch in privacy.batches(epoch):
            optimizer.step_hook(optimizer)  # type: ignore[attr-defined]  # what a step would do to the account
            sizes.append(len(batch.positions))
            seen[batch.positions] += 1
    assert len(sizes) == 200
    assert np.std(sizes) == pytest.approx((100 * 0.9) ** 0.5, rel=0.25)
    assert np.mean(sizes) == pytest.approx(100, abs=4)
    assert seen.std() == pytest.approx((200 * 0.1 * 0.9) ** 0.5, rel=0.2)


def _optimizer(privacy: Any) -> Any:
    model = torch.nn.Linear(2, 1)
    privacy.parallel(model)
    for weights in model.parameters():
        weights.grad_sample = torch.zeros(1, *weights.shape)
    return torch.optim.SGD(model.parameters(), lr=1.0)


def test_a_resumed_run_goes_on_counting_where_it_was(tmp_path: Path) -> None:
    spec = a_spec(params={"epochs": 3})
    stopping = KeepingOutlet(directory=tmp_path / "kept", stop_after=1)
    tabular_mlp.train(spec.params, a_context(spec, outlet=stopping))
    resumed = train_here(tabular_mlp.train, spec, resume_from=tmp_path / "kept")
    whole = train_here(tabular_mlp.train, spec)
    assert resumed.measurements == whole.measurements
    assert resumed.measurements["privacy"]["steps"] == 15


def test_a_checkpoint_without_an_account_cannot_be_gone_on_from(tmp_path: Path) -> None:
    without = a_spec(privacy=None)
    tabular_mlp.train(
        without.params, a_context(without, outlet=KeepingOutlet(directory=tmp_path / "kept", stop_after=1))
    )
    with pytest.raises(BadInput, match="says nothing of privacy"):
        train_here(tabular_mlp.train, a_spec(), resume_from=tmp_path / "kept")


def test_an_epoch_that_is_broken_off_has_cost_its_steps() -> None:
    found = train_here(private.train, one_step(noise=1.0, use="breaks_off")).measurements["privacy"]
    assert found["epsilon"] == pytest.approx(opacus_epsilon(noise=1.0, rate=1.0, steps=1))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (one_step(use="ignores"), "the workload does not carry it out"),
        (one_step(use="steps_past_it"), "0 private steps were made with a batch"),
        (one_step(use="batch_norm", outputs=2), "BatchNorm cannot support training with differential privacy"),
    ],
)
def test_a_workload_that_does_not_train_privately_ends_as_a_user_error(spec: ExperimentSpec, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        train_here(private.train, spec)


def raw_once(params: Any, context: Any) -> None:
    """Draws a private batch and steps past privacy, then leaves."""
    privacy = begin_privacy(context, rows=ROWS, batch_size=64, epochs=1)
    for _ in privacy.batches(1):
        break
    rows = context.shard("test")
    context.evaluate("test", records=rows.records, predictions=np.zeros(len(rows), dtype=np.int64))
    context.export({"w": torch.zeros(1)}, config={})


def test_leaving_the_first_batch_without_a_private_step_makes_no_account() -> None:
    with pytest.raises(BadInput, match="no private step was made"):
        train_here(raw_once, a_spec())


def test_drift_beside_privacy_is_refused_at_the_door() -> None:
    with pytest.raises(ValueError, match=r"probes\.drift shows how its values are spread"):
        a_spec(probes={"drift": {}})


def test_a_model_that_made_no_private_step_is_not_exported() -> None:
    context = a_context(a_spec())
    assert context.privacy is not None
    with pytest.raises(BadInput, match="no private step was made"):
        context.export({"weight": np.zeros(2)}, config={})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": {"noise_multiplier": 1.0, "delta": 0.01}}, "not below one over the 265 rows"),
        ({"privacy": {"target_epsilon": 1e-9}}, "cannot be reached"),
        ({"data": {**DATA, "split": {"train": 0.7, "validation": 0, "test": 0.3}}}, "validation rows"),
    ],
)
def test_what_these_rows_cannot_give_is_refused_before_training(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadData, match=words):
        train_here(tabular_mlp.train, a_spec(**changes))


def test_without_opacus_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(BadInput, match=r"install fairlead\[privacy\]"):
        train_here(tabular_mlp.train, a_spec())


def test_nothing_of_the_protected_rows_goes_into_the_model_past_the_noise(tmp_path: Path) -> None:
    spec = a_spec()
    train_here(tabular_mlp.train, spec, export_to=tmp_path)
    rows = open_dataset(spec.data)
    means = {split: rows.rows(split).features.astype(np.float64).mean(axis=0) for split in ("train", "validation")}
    assert read_model(tmp_path).config["mean"] == pytest.approx(means["validation"].tolist())
    assert read_model(tmp_path).config["mean"] != pytest.approx(means["train"].tolist(), rel=1e-3)


def test_pictures_can_be_learnt_privately_too() -> None:
    params = {"epochs": 1, "width": 8, "batch_size": 256}
    trained = train_here(image_cnn.train, a_spec(workload="image_cnn", data={"uri": "builtin://digits"}, params=params))
    assert trained.measurements["privacy"]["epsilon"] > 0


@pytest.mark.parametrize("workload", ["tabular_mlp", "image_cnn"])
def test_a_privately_trained_model_can_be_attacked_like_any_other(workload: str) -> None:
    """What finds the gradient of each row in training is not in the way of a gradient of the inputs."""
    data = DATA if workload == "tabular_mlp" else {"uri": "builtin://digits"}
    probes = {"robustness": [{"method": "fgsm", "eps": 0.1}], "temperature": {}}
    spec = a_spec(workload=workload, data=data, probes=probes, params={"epochs": 1})
    program = tabular_mlp.train if workload == "tabular_mlp" else image_cnn.train
    trained = train_here(program, spec)
    (attacked,) = [state for name, state in trained.states.items() if name.startswith("test@fgsm")]
    assert attacked.n == trained.states["test"].n
    assert {"privacy", "temperature"} <= set(trained.measurements)


@pytest.mark.parametrize(("require", "outcome"), [("<= 8", "pass"), ("<= 0.1", "fail")])
def test_a_gate_on_epsilon_is_decided_by_what_training_has_cost(require: str, outcome: str) -> None:
    spec = a_spec(gates=[{"metric": "epsilon", "require": require}])
    trained = train_here(tabular_mlp.train, spec)
    measurements = Measurements(asked=spec.measured, found=trained.measurements)
    (gate,) = evaluate_gates(trained.states["test"], spec.gates, EvaluationSpec(), measurements)
    assert gate.outcome == outcome


def test_training_otherwise_than_asked_is_no_measurement() -> None:
    trained = train_here(tabular_mlp.train, a_spec())
    other = a_spec(privacy={"noise_multiplier": 2.0}).measured
    gate = GateSpec(metric="epsilon", require="<= 8")
    measurements = Measurements(asked=other, found=trained.measurements)
    (found,) = evaluate_gates(trained.states["test"], [gate], EvaluationSpec(), measurements)
    assert "noise_multiplier is not what the spec asks for" in found.why
