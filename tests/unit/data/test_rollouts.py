"""Drawn plays: places against closed forms, and pictures that open."""

import io
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from fairlead.data.plays import watch
from fairlead.data.rollouts import HEIGHT, MOST_FRAMES, WIDTH, History, animation, cart_of, curve, links_of


def test_a_pole_that_leans_right_is_drawn_so() -> None:
    foot, tip = cart_of(np.array([1.2, 0, math.pi / 6, 0], dtype=np.float32))
    assert foot[0] == pytest.approx(WIDTH / 2 + (WIDTH / 2 - 30) / 2)
    assert (tip[0] - foot[0], tip[1] - foot[1]) == pytest.approx((55, -110 * math.cos(math.pi / 6)), abs=1e-3)


def test_links_hang_down_at_angle_zero_and_reach_the_line_when_their_heights_add_up_to_one() -> None:
    hook, joint, tip = links_of(np.array([1, 0, 1, 0, 0, 0], dtype=np.float32))
    assert joint == pytest.approx((hook[0], hook[1] + 48))
    assert tip == pytest.approx((hook[0], hook[1] + 96))
    first, second = 2.0, 0.9  # -cos(2.0) - cos(2.9) = 1.387 > 1: there
    seen = np.array([math.cos(first), math.sin(first), math.cos(second), math.sin(second), 0, 0], dtype=np.float32)
    _, _, tip = links_of(seen)
    assert (hook[1] - tip[1]) / 48 == pytest.approx(-math.cos(first) - math.cos(first + second), abs=1e-4)


@pytest.mark.parametrize("environment", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_an_episode_becomes_an_animation(environment: str) -> None:
    observations, total = watch(environment, 1, lambda seen: np.zeros(len(seen), dtype=np.int64))
    opened = Image.open(io.BytesIO(animation(environment, observations, total=total)))
    assert opened.size == (WIDTH, HEIGHT)
    assert 2 <= getattr(opened, "n_frames", 1) <= MOST_FRAMES + 1
    assert len(set(np.asarray(opened.convert("L")).ravel().tolist())) > 3


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_curve_has_a_point_a_report_even_if_there_are_none(rounds: int) -> None:
    history = History()
    for number in range(1, rounds + 1):
        history.add(number, {"train/return": 20.0 * number, "train/loss": 1.0})
    kept = History()
    kept.load_state_dict(history.state_dict())
    drawn = ElementTree.fromstring(curve(kept, title="returns"))
    lines = drawn.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == ([rounds] if rounds else [])
