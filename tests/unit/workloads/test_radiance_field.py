import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fairlead.checking import ready_spec, train_once
from fairlead.data import open_dataset
from fairlead.data.builtin.views import looking_at_origin
from fairlead.errors import BadData
from fairlead.evaluation.quantities import AnyState, number_estimates, number_grouping
from fairlead_workloads import radiance_field as page

QUICK = {"width": 8, "coarse_samples": 4, "fine_samples": 4, "batch_size": 1024, "epochs": 1}
SMALL = {"uri": "builtin://ray_traced_scene?views=12&size=8"}


@pytest.mark.parametrize("pieces", [1, 7, 200])
def test_an_even_fog_is_seen_through_as_beer_and_lambert_say(pieces: int) -> None:
    edges = torch.linspace(2, 6, pieces + 1)[None]
    shown, weights = page.composite(torch.full((1, pieces), 0.3), torch.full((1, pieces, 3), 0.25), edges)
    clear = math.exp(-0.3 * 4)
    assert shown[0].tolist() == pytest.approx([0.25 * (1 - clear) + clear] * 3, rel=1e-5)
    assert weights.sum().item() == pytest.approx(1 - clear, rel=1e-5)


def test_a_wall_hides_what_is_behind_it() -> None:
    colours = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]])
    shown, weights = page.composite(torch.tensor([[0.0, 1e4, 1e4]]), colours, torch.tensor([[2.0, 3, 4, 5]]))
    assert shown.tolist() == [[0, 1, 0]]
    assert weights.tolist() == [[0, 1, 0]]


def test_samples_fall_where_the_weights_are_as_numpy_inverts_them() -> None:
    random = np.random.RandomState(0)
    weights, edges = random.random_sample((5, 8)), np.sort(random.random_sample((5, 9)), axis=1)
    quantiles = random.random_sample((5, 40))
    drawn = page.draw_where(*(torch.from_numpy(array) for array in (weights, edges, quantiles))).numpy()
    for row in range(5):
        shares = (weights[row] + 1e-5) / (weights[row] + 1e-5).sum()
        expected = np.interp(quantiles[row], np.concatenate([[0], shares.cumsum()]), edges[row])
        assert drawn[row] == pytest.approx(expected, abs=1e-9)


def test_places_are_told_by_sines_and_cosines_of_rising_frequency() -> None:
    assert page.encode(torch.tensor([[0.25]]), 2)[0].tolist() == pytest.approx(
        [0.25, math.sin(math.pi / 4), 1, math.cos(math.pi / 4), 0], abs=1e-6
    )


def test_rays_meet_the_pixels_of_the_data_in_their_order() -> None:
    pose = looking_at_origin(0.4, 0.6)
    origins, directions = page.rays_of(torch.from_numpy(pose.astype(np.float32))[None], height=4, width=6, focal=5.0)
    assert origins.shape == directions.shape == (24, 3)
    seen = directions.numpy() @ pose[:, :3]
    on_plane = seen[:, :2] / -seen[:, 2:] * 5  # to the right and up, in pixels
    assert on_plane[[0, 5, 23]] == pytest.approx(np.array([[-2.5, 1.5], [2.5, 1.5], [2.5, -1.5]]), abs=1e-5)


def test_the_middle_ray_of_a_camera_meets_what_it_looks_at() -> None:
    pose = page.pose_towards(np.array([1.0, 2, 3]), 2.0, -1.0, 1.5)
    assert pose[:, :3] @ pose[:, :3].T == pytest.approx(np.eye(3))
    assert np.linalg.det(pose[:, :3]) == pytest.approx(1)
    distance = np.linalg.norm([2, -1, 1.5])
    assert pose[:, 3] - distance * pose[:, 2] == pytest.approx([1, 2, 3])


def test_an_exported_scene_can_be_looked_at_from_anywhere(tmp_path: Path) -> None:
    spec = ready_spec("ray_traced_scene", params=QUICK | {"batch_size": 256}, data=SMALL)
    trained = train_once(page.train, spec, export_to=tmp_path / "model", samples_to=tmp_path / "samples")
    camera = page.load_camera(tmp_path / "model")
    views = open_dataset(spec.data).rows("test")
    shown = np.moveaxis(camera(views.targets["pose"]), 3, 1)
    assert shown.shape == views.features.shape
    errors = np.square(shown - views.features / 255).mean(axis=(1, 2, 3))
    graded = trained.test
    assert graded.book.n == len(views)
    assert np.mean([page.decibels(error) for error in errors]) == pytest.approx(graded_mean(graded), rel=1e-4)
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"view-1.png", "view.png", "flight.gif"}


def graded_mean(state: AnyState) -> float:
    return float(number_estimates("mean_quality", number_grouping(state, ())).values[0])


def test_fewer_rays_than_a_batch_are_refused() -> None:
    with pytest.raises(BadData, match=r"the 5 views of the train split have 320 pixels, and one batch has 1024 over 1"):
        train_once(page.train, ready_spec("ray_traced_scene", params=QUICK, data=SMALL))
