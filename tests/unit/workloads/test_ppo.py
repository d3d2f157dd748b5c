"""``ppo``: its advantages against sums written out, ranks that agree, samples, predictions and bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.checking import find_check, ready_spec, train_once
from fairlead.data import find_manifests
from fairlead.data.alone import run_alone
from fairlead.errors import BadInput
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import train_here, train_on_ranks
from fairlead_workloads import dqn, ppo
from fairlead_workloads.checks.ppo import mean_return


def quick_spec(workload: str, example: str, *, seed: int = 0, **params: object) -> ExperimentSpec:
    manifest = find_manifests()[workload]
    quick = find_check(manifest).quick
    spec = ready_spec(example, seed=seed, data=quick["data"], params={**quick["params"], **params})
    return spec.amended(params=manifest.with_defaults(spec.params))


def test_advantages_are_discounted_sums_of_surprises_up_to_the_episode_s_end() -> None:
    random = np.random.RandomState(0)
    rewards, values, following = (torch.from_numpy(random.standard_normal((12, 3))) for _ in range(3))
    has_ended = torch.from_numpy(random.random_sample((12, 3)) < 0.25)
    is_terminal = has_ended & torch.from_numpy(random.random_sample((12, 3)) < 0.5)
    assert (has_ended & ~is_terminal).any(), "some episodes only run out of steps"
    given = {"is_terminal": is_terminal, "has_ended": has_ended, "discount": 0.9, "smoothing": 0.7}
    found = ppo.advantages(rewards, values, following, **given)
    for step in range(12):
        for place in range(3):
            total, weight = 0.0, 1.0
            for later in range(step, 12):
                after = 0.0 if is_terminal[later, place] else 0.9 * float(following[later, place])
                total += weight * (float(rewards[later, place]) + after - float(values[later, place]))
                weight *= 0.9 * 0.7
                if has_ended[later, place]:
                    break
            assert float(found[step, place]) == pytest.approx(total)


def test_without_smoothing_an_advantage_is_one_surprise_and_with_all_of_it_the_whole_return() -> None:
    rewards, nothing = torch.ones(6, 1), torch.zeros(6, 1)
    ends = torch.zeros(6, 1, dtype=torch.bool)
    ends[-1] = True
    given = {"is_terminal": ends, "has_ended": ends, "discount": 1.0}
    assert ppo.advantages(rewards, nothing, nothing, smoothing=0.0, **given)[:, 0].tolist() == [1.0] * 6
    assert ppo.advantages(rewards, nothing, nothing, smoothing=1.0, **given)[:, 0].tolist() == [6, 5, 4, 3, 2, 1]


def test_standardised_values_have_mean_0_and_deviation_1() -> None:
    found = ppo.standardised(torch.tensor([[1.0, 5.0], [-3.0, 9.0]], dtype=torch.float64))
    assert float(found.mean()) == pytest.approx(0)
    assert float((found**2).mean()) == pytest.approx(1)


@pytest.mark.parametrize(("page", "workload", "example"), [(ppo, "ppo", "cart_pole"), (dqn, "dqn", "acrobot")])
def test_a_run_shows_a_play_and_a_curve_and_its_export_answers(
    page: object, workload: str, example: str, tmp_path: Path
) -> None:
    options = {"export_to": tmp_path / "model", "samples_to": tmp_path / "samples"}
    trained = train_once(page.train, quick_spec(workload, example), **options)  # type: ignore[attr-defined]
    assert mean_return(trained) > 5
    assert Image.open(tmp_path / "samples" / "play.gif").format == "GIF"
    assert "validation/return" in (tmp_path / "samples" / "returns.svg").read_text()
    answers = page.load(tmp_path / "model")(np.zeros((3, 4)))  # type: ignore[attr-defined]
    assert answers.shape == (3, 2)
    if page is ppo:
        assert np.allclose(answers.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("page", "workload", "example", "params", "words"),
    [
        (ppo, "ppo", "cart_pole", {"batch_size": 129}, "batch_size 129 is more than the 128 steps"),
        (dqn, "dqn", "acrobot", {"memory": 31}, "memory 31 is less than 40"),
        (dqn, "dqn", "acrobot", {"memory": 39, "batch_size": 8}, "and 10 steps of 4 environments"),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(
    page: object, workload: str, example: str, params: dict[str, int], words: str
) -> None:
    if workload == "dqn":
        params = {**params, "lookahead": 10}
    with pytest.raises(BadInput, match=words):
        train_here(page.train, quick_spec(workload, example, **params))  # type: ignore[attr-defined]


def test_fewer_environments_than_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a rank ended with status 1"):
        train_on_ranks("fairlead_workloads.ppo:train", [quick_spec("ppo", "cart_pole", environments=1)], ranks=2)


def test_an_unknown_environment_ends_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_alone(
            ppo.train, workload="ppo", example="cart_pole", arguments=["--data=builtin://episodes?environment=Car-v9"]
        )
    assert "the environment Car-v9 cannot be made" in " ".join(capsys.readouterr().out.split())


@pytest.mark.nightly  # six trainings and more
@pytest.mark.parametrize(("workload", "example", "rounds"), [("ppo", "cart_pole", 6), ("dqn", "acrobot", 10)])
def test_one_rank_and_two_learn_as_well_over_three_seeds(workload: str, example: str, rounds: int) -> None:
    """Sums over ranks differ in their last digits, and plays that hang on them part ways: returns stay alike."""
    specs = [ready_spec(example, seed=seed, params={"rounds": rounds}) for seed in range(3)]
    manifest = find_manifests()[workload]
    specs = [spec.amended(params=manifest.with_defaults(spec.params)) for spec in specs]
    found = {}
    for ranks in (1, 2):
        trained = train_on_ranks(f"fairlead_workloads.{workload}:train", specs, ranks=ranks)
        lasts = [
            [metrics["validation/return"] for _, metrics in one.reports if "validation/return" in metrics]
            for one in trained
        ]
        found[ranks] = np.array([max(returns) for returns in lasts])
    spread = np.sqrt(sum(values.var(ddof=1) / 3 for values in found.values()))
    assert abs(found[1].mean() - found[2].mean()) <= 3 * spread + 25  # 25: one play in twenty ends early
