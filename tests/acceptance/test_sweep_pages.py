"""The pages of sweeps in a headless browser, as people will see them."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fairlead.evaluation.sweep_page import plot_files, render_sweep_page
from fairlead.evaluation.sweep_plots import plots_of
from fairlead.testing.browser import open_page
from fairlead.testing.sweeps import GAP, TWO_OBJECTIVES, a_sweep, a_sweep_report, sweep_trials

TWO: dict[str, Any] = {"objectives": TWO_OBJECTIVES, "constraints": (f"{GAP}.upper95 <= 0.2",)}


def _colours(picture: Path) -> int:
    with Image.open(picture) as opened:
        return len(opened.convert("RGB").getcolors(opened.width * opened.height))


@pytest.mark.parametrize(("search", "count"), [({}, 40), (TWO, 40), (TWO, 10_000)], ids=["one", "two", "ten thousand"])
def test_a_page_of_a_sweep_opens_without_complaint_and_shows_its_plots(
    search: dict[str, Any], count: int, tmp_path: Path
) -> None:
    spec = a_sweep(**search)
    assert spec.search is not None
    report = a_sweep_report(spec, sweep_trials(spec.search, count))
    page = tmp_path / "sweep.html"
    page.write_text(render_sweep_page(report), encoding="utf-8")
    opened = open_page(page, tmp_path / "sweep.png")
    assert opened.complaints == ()
    assert report["headline"][1:] in opened.dom.replace("&lt;", "<")
    assert opened.dom.count('role="img"') == len(plots_of(report))
    assert _colours(opened.screenshot) > 100, "a page that shows little"


def test_a_plot_is_a_picture_of_its_own(tmp_path: Path) -> None:
    spec = a_sweep(**TWO)
    assert spec.search is not None
    files = plot_files(plots_of(a_sweep_report(spec, sweep_trials(spec.search, 40))))
    picture = tmp_path / "pareto.svg"
    picture.write_bytes(files["pareto.svg"])
    opened = open_page(picture, tmp_path / "pareto.png", width=800, height=500)
    assert opened.complaints == ()
    assert _colours(opened.screenshot) > 50, "a picture that shows little"
