import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairlead.data import check, open_dataset
from fairlead.data.builtin import views
from fairlead.spec import DataSpec

SPLIT = {"train": 1.0, "validation": 0.0, "test": 0.0}
ANGLE = 2 * math.atan(0.5)  # as wide as far away: the focal length is the width


def folder_of(root: Path, **fields: Any) -> Path:
    """Three views 6 wide and 4 high: half transparent blue, with another red each."""
    root.mkdir(parents=True)
    frames = []
    for number in range(3):
        Image.new("RGBA", (6, 4), (40 * number, 0, 255, 128)).save(root / f"{number}.png")
        matrix = np.eye(4)
        matrix[:3, 3] = 0, 0, 2 + number
        frames.append({"file_path": f"./{number}", "transform_matrix": matrix.tolist(), "lamp": "on", "turn": 0.5})
    (root / "transforms.json").write_text(json.dumps({"camera_angle_x": ANGLE, "frames": frames, **fields}))
    return root


def spec_of(root: Path, **fields: object) -> DataSpec:
    return DataSpec.model_validate({"uri": str(root), "split": SPLIT, **fields})


@pytest.mark.parametrize("name", ["", "transforms.json"])
def test_a_folder_of_views_has_pictures_before_white_and_the_place_of_each(tmp_path: Path, name: str) -> None:
    dataset = open_dataset(spec_of(folder_of(tmp_path / "scene") / name, sensitive=["lamp"]))
    assert (dataset.info.kind, dataset.info.feature_shape) == ("views", (3, 4, 6))
    assert dataset.info.details == {"focal": pytest.approx(6), "near": 1.0, "far": 6.0}
    assert dataset.targets["pose"][:, 2, 3].tolist() == [2, 3, 4]
    assert dataset.features[:, 0, 0, 0].tolist() == pytest.approx([127, 147, 167], abs=1)
    assert dataset.features[:, 2].min() == 255
    assert dataset.info.attributes[0].levels == ("on",)


def test_the_file_may_say_where_rays_begin_and_end(tmp_path: Path) -> None:
    details = open_dataset(spec_of(folder_of(tmp_path / "scene", near=0.5, far=9))).info.details
    assert (details["near"], details["far"]) == (0.5, 9)


def _changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        document = json.loads((root / "transforms.json").read_text())
        change(document)
        (root / "transforms.json").write_text(json.dumps(document))

    return spoil


def _frame(**fields: Any) -> Callable[[Path], None]:
    return _changed(lambda document: document["frames"][1].update(fields))


STRETCHED = np.diag([2.0, 1, 1, 1]).tolist()
MIRRORED = np.diag([-1.0, 1, 1, 1]).tolist()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "transforms.json").write_text("{"), "transforms.json: Expecting property name"),
        (lambda root: (root / "transforms.json").write_bytes(b"\xff{}"), "transforms.json: 'utf-8' codec"),
        (lambda root: (root / "1.png").unlink(), "frame 2, ./1: there is no such file"),
        (lambda root: (root / "1.png").write_bytes(b"\x89PNG no"), "frame 2, ./1: the image cannot be read"),
        (lambda root: Image.new("RGB", (9, 9)).save(root / "1.png"), "frame 2, ./1: 9 × 9 pixels"),
        (_changed(lambda document: document.pop("frames")), "a list 'frames'"),
        (_changed(lambda document: document.update(frames=[])), "a list 'frames'"),
        (_changed(lambda document: document.pop("camera_angle_x")), "camera_angle_x must be a number"),
        (_changed(lambda document: document.update(camera_angle_x=4)), "between 0 and pi, not 4"),
        (_changed(lambda document: document.update(near=1)), "near and far must both"),
        (_changed(lambda document: document.update(near=3, far=2)), "below far, not 3 and 2"),
        (_frame(file_path=None), "frame 2, None: file_path is missing"),
        (_frame(file_path="./0"), "./0 is listed twice"),
        (_frame(transform_matrix=[[1, 0], [0, 1]]), "frame 2, ./1: transform_matrix must hold 4 rows"),
        (_frame(transform_matrix=[[1, 0], [0]]), "frame 2, ./1: transform_matrix must hold 4 rows"),
        (_frame(transform_matrix=STRETCHED), "must be a rotation"),
        (_frame(transform_matrix=MIRRORED), "neither stretched nor mirrored"),
    ],
)
def test_bad_views_are_refused_with_file_and_frame(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    root = folder_of(tmp_path / "scene")
    spoil(root)
    assert words in check(spec_of(root))[0].message


def test_every_missing_view_is_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scene")
    for path in root.glob("*.png"):
        path.unlink()
    assert len(check(spec_of(root))) == 3


# ---- the scene that is known --------------------------------------------------------------------------------------


def test_a_ray_on_a_ball_shows_the_light_that_the_formula_says() -> None:
    ball = views.SCENE[1]
    assert isinstance(ball, views.Ball)
    above = np.array([[*ball.centre[:2], 5.0]])
    down = np.array([[0.0, 0, -1]])
    distances, normals = ball.hits(above, down)
    assert distances[0] == pytest.approx(5 - ball.centre[2] - ball.radius)
    assert normals[0] == pytest.approx([0, 0, 1])
    lit = 0.35 + 0.65 * views.LIGHT[2]
    gloss = 0.3 * views.LIGHT[2] ** 20  # the mirrored ray goes straight up
    assert views.trace(above, down)[0] == pytest.approx(np.array(ball.colour) * lit + gloss)


def test_what_the_sun_does_not_reach_is_only_as_bright_as_its_surroundings() -> None:
    slab, ball = views.SCENE[0], views.SCENE[1]
    assert isinstance(ball, views.Ball)
    assert isinstance(slab, views.Box)
    middle = np.array(ball.centre) - views.LIGHT * (ball.centre[2] - slab.high[2]) / views.LIGHT[2]
    shown = views.trace((middle + np.array([0, 0, 1e-3]))[None], np.array([[0.0, 0, -1]]))
    assert shown[0] == pytest.approx(0.35 * np.array(slab.colour))


@pytest.mark.parametrize("direction", [(0.0, 0, 1), (0, 1, 0), (1, 0, 0)])
def test_rays_past_everything_are_white(direction: tuple[float, float, float]) -> None:
    assert views.trace(np.array([[3.0, 3, 3]]), np.array([direction])).tolist() == [[1, 1, 1]]


def test_each_camera_looks_at_the_origin_from_where_it_says() -> None:
    pose = views.looking_at_origin(0.3, 0.5)
    assert pose[:, :3] @ pose[:, :3].T == pytest.approx(np.eye(3))
    assert np.linalg.det(pose[:, :3]) == pytest.approx(1)
    assert pose[:, 3] - 4 * pose[:, 2] == pytest.approx(np.zeros(3))
    assert math.asin(pose[2, 3] / 4) == pytest.approx(0.5)


def test_the_scene_is_a_set_of_its_own_settings() -> None:
    first, again, other = (
        open_dataset(DataSpec(uri=f"builtin://ray_traced_scene?views=12&size=8&seed={seed}")) for seed in (1, 1, 2)
    )
    assert first.info.digest == again.info.digest != other.info.digest
    assert first.features.shape == (12, 3, 8, 8)
    assert first.info.details == {"focal": pytest.approx(9.6), "near": 2.0, "far": 6.0}
