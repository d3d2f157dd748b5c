from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from fairlead.checking import ready_spec, train_once
from fairlead.data import Batch, open_dataset
from fairlead.data.context import KeepingOutlet
from fairlead.errors import BadData
from fairlead.evaluation.quantities import AnyState, number_estimates, number_grouping
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import a_context, train_here, train_on_ranks
from fairlead_workloads import image_generation as page

QUICK = {"epochs": 2, "width": 4, "batch_size": 256, "denoising_steps": 2, "sample_every": 2}
METHODS = ("diffusion", "wgan_gp")


def quick_spec(method: str, **params: Any) -> ExperimentSpec:
    return ready_spec("digits_made_anew", params=QUICK | {"method": method} | params)


@pytest.mark.parametrize("rows", [40, 400])
def test_the_frechet_distance_is_that_by_scipys_root_of_a_matrix(rows: int) -> None:
    random = np.random.RandomState(0)
    first, second = random.normal(size=(rows, 8)), random.normal(size=(rows, 8)) @ random.normal(size=(8, 8)) + 1
    one, other = np.cov(first.T), np.cov(second.T)
    gap = first.mean(axis=0) - second.mean(axis=0)
    expected = gap @ gap + np.trace(one + other - 2 * linalg.sqrtm(one @ other).real)
    assert page.frechet_distance(first, second) == pytest.approx(expected)
    assert page.frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_steps_of_a_perfect_denoiser_lead_from_any_noise_to_its_picture() -> None:
    """Every picture is one and the same here, so the velocity is known."""
    picture = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)

    class Perfect(page.Denoiser):
        def forward(self, mixture: torch.Tensor, time: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            of_picture, of_noise = page.shares(time)
            return of_picture * (mixture - of_picture * picture) / of_noise - of_noise * picture

    model = Perfect(shape=(1, 8, 8), classes=3, width=4, steps=5, guidance=1.0)
    states = model.make(torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    assert len(states) == 6
    assert torch.allclose(states[-1], picture.expand(2, -1, -1, -1), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 30), (1, 4, 6), (3, 3, 2)])
@pytest.mark.parametrize("method", METHODS)
def test_pictures_of_any_size_come_out_as_they_are_asked_for(shape: tuple[int, ...], method: str) -> None:
    config: dict[str, Any] = {"shape": shape, "classes": 3, "width": 4}
    model = page.model_of(config | ({"noise_size": 5} if method == "wgan_gp" else {"steps": 2, "guidance": 1.0}))
    labels = np.array([0, 2], dtype=np.int64)
    assert page.made_by(model, page.noise_for(model, 2, seed=0), labels).shape == (2, *shape)
    assert page.Critic(**config)(torch.zeros(2, *shape), torch.from_numpy(labels)).shape == (2,)


def test_a_critic_without_slope_pays_the_whole_penalty_and_steps_to_have_one() -> None:
    context = a_context(quick_spec("wgan_gp"))
    learner = page.WassersteinGan(page.Settings(method="wgan_gp", width=4), context, steps=10)
    for weight in learner.parts["critic"].parameters():
        torch.nn.init.zeros_(weight)
    batch = Batch(positions=np.arange(6), num_global=6, world_size=1)
    pictures, labels = torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64)
    distance, penalty = learner.learn(pictures, labels, batch, slice(0, 6), 1).tolist()
    assert (distance, penalty) == (0, 6)  # a slope of 0 is 1 from 1, six times


def test_two_ranks_train_the_gan_that_one_trains() -> None:
    """``test_two_ranks_train_what_one_trains`` does the same for diffusion, the default."""
    spec = quick_spec("wgan_gp", epochs=3, batch_size=200)
    spec = spec.amended(params={**vars_of(page.Settings()), **spec.params})
    one = train_here(page.train, spec)
    two = train_on_ranks("fairlead_workloads.image_generation:train", [spec], ranks=2)[0]
    for (_, alone), (_, together) in zip(one.reports, two.reports, strict=True):
        assert alone == pytest.approx(together, rel=2e-3, abs=2e-3)
    assert one.states["test"].to_bytes() == two.states["test"].to_bytes()


def vars_of(settings: page.Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_goes_on_bit_by_bit_and_exports_what_was_graded(method: str, tmp_path: Path) -> None:
    spec = quick_spec(method)
    stopping = KeepingOutlet(directory=tmp_path / "kept", stop_after=1)
    train_once(page.train, spec, outlet=stopping)
    whole = train_once(page.train, spec, export_to=tmp_path / "whole", samples_to=tmp_path / "samples")
    train_once(page.train, spec, resume_from=tmp_path / "kept", export_to=tmp_path / "rest")
    files = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "rest")]
    assert files[0] == files[1]
    test = open_dataset(spec.data).rows("test")
    made = page.load_generator(tmp_path / "whole")(test.labels, seed=spec.seed)
    assert made.shape == test.features.shape
    assert (made.min(), made.max()) >= (0, 0)
    assert made.max() <= 16 + 1e-3
    train = open_dataset(spec.data).rows("train")
    judge = page.Judge(train.features / 8 - 1, train.labels, classes=10, seed=spec.seed)
    graded = judge.recognises(made / 8 - 1, test.labels).mean()
    assert graded == pytest.approx(mean_quality(whole.test), abs=0.01)
    film = {"diffusion": "denoising.gif", "wgan_gp": "walk.gif"}[method]
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"epoch-2.png", film}
    with Image.open(tmp_path / "samples" / film) as moving:
        assert moving.n_frames > 2


def mean_quality(state: AnyState) -> float:
    return float(number_estimates("mean_quality", number_grouping(state, ())).values[0])


def pictures_in(root: Path, *, cats: int, dogs: int, shade: int = 10) -> Path:
    for name, number in (("cat", cats), ("dog", dogs)):
        (root / name).mkdir(parents=True)
        for at in range(number):
            Image.new("L", (4, 6), shade * at).save(root / name / f"{at}.png")
    return root


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ({"cats": 3, "dogs": 3}, r"the train split has 6 pictures, and one batch has 8 over 1 ranks"),
        ({"cats": 4, "dogs": 4, "shade": 0}, r"every pixel of the train split has the value 0"),
    ],
)
def test_too_little_to_learn_from_is_refused(tmp_path: Path, folder: dict[str, int], words: str) -> None:
    root = pictures_in(tmp_path / "pets", **folder)
    data = {"uri": str(root), "sensitive": [], "split": {"train": 1.0, "validation": 0.0, "test": 0.0}}
    spec = quick_spec("diffusion", batch_size=8).amended(data=data, gates=(), evaluation={})
    with pytest.raises(BadData, match=words):
        train_once(page.train, spec)
