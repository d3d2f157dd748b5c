"""What ``fairlead demo fairness`` shows, on the session's stack; and that Ctrl-C leaves nothing of it behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from rich.console import Console

from fairlead import Client
from fairlead.cli.experiments import print_gates
from fairlead.cli.fairness import run_fairness, show, side_of
from fairlead.embedded import EmbeddedStack
from fairlead.testing.browser import open_page


def test_a_model_fails_its_gate_and_with_mitigation_passes_and_is_registered(
    stack: EmbeddedStack, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_fairness(stack, client, tmp_path / "pages", is_kept=False, as_json=True) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    before, after = told["before"], told["after"]
    gap_before, gap_after = before["gates"][0], after["gates"][0]
    assert (gap_before["outcome"], gap_after["outcome"]) == ("fail", "pass")
    assert "even the lower bound" in gap_before["why"]
    assert "the upper bound" in gap_after["why"]
    assert [gap["evidence"] for gap in (gap_before, gap_after)] == ["upper_bound", "upper_bound"]
    assert "gate_failed" in before["registration"]["reason"]
    assert after["registration"]["is_registered"]
    assert after["registration"]["name"] == "lending"
    assert told["mitigation"]["before"]["experiment"] == before["id"]
    assert told["mitigation"]["gates"][0] == {"id": "gap-by-sex", "before": "fail", "after": "pass"}
    pages = {name: Path(path).read_text() for name, path in told["pages"].items()}
    assert "against gaps" not in pages["before"]
    assert f"experiment {before['id']}" in pages["after"]
    verdicts = {"before": "1 of 2 requirements is not met", "after": "All 2 requirements are met"}
    for name, path in told["pages"].items():
        opened = open_page(Path(path), tmp_path / f"{name}.png")
        assert opened.complaints == ()
        assert verdicts[name] in opened.dom
        assert "<svg" in opened.dom
        with Image.open(opened.screenshot) as picture:
            assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 100, (
                "a page that shows little"
            )
    sides = [side_of(client.get(told[name]["id"]), tmp_path / f"{name}.html") for name in ("before", "after")]
    show(Console(width=200), *sides, took_s=40)
    shown = capsys.readouterr().out
    assert [line.split()[-2:] for line in shown.splitlines() if "gate: <= 0.05" in line] == [["fail", "pass"]]
    for words in ("women approved", "even the lower bound", "lending version", "before.html", "after.html"):
        assert words in shown


def test_what_a_browser_complains_of_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<title>x</title><script>throw new Error('broken')</script>")
    assert open_page(page, tmp_path / "broken.png").complaints == ("Uncaught Error: broken",)


@pytest.mark.nightly  # starts a stack of its own to interrupt it
def test_ctrl_c_ends_the_demonstration_and_all_its_processes(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAIRLEAD_")}
    arguments = ["demo", "fairness", "--keep", str(tmp_path / "home"), "-o", str(tmp_path / "pages")]
    process = subprocess.Popen(
        [sys.executable, "-m", "fairlead.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert process.stderr is not None
    children: list[psutil.Process] = []
    for line in process.stderr:
        if "1 of 2" in line:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=90) == 130, rest
    assert "everything has been ended" in rest
    assert len(children) >= 3
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert not (tmp_path / "pages").exists()


AGAINST = [
    {"id": "no-worse", "metric": "accuracy_score", "require": ">= champion - 0.02"},
    {"id": "gap", "metric": "demographic_parity_difference", "by": ["sex"], "require": "<= champion + 0.03"},
]


def _lending(**changes: Any) -> dict[str, Any]:
    """A model of made-up loans; with noise in its train split it is a worse one, judged on the same rows."""
    data = {"uri": "builtin://lending?rows=12000", "sensitive": ["sex"], **changes.pop("data", {})}
    content = {"name": "lending", "workload": "tabular_mlp", "params": {"epochs": 4, "hidden": [16]}, "data": data}
    evaluation = {"groupings": [["sex"]]}
    return {**content, "evaluation": evaluation, "gates": AGAINST, "register": {"name": "loans"}, **changes}


def test_a_model_is_registered_only_if_it_is_no_worse_than_the_champion_on_the_same_rows(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    first = client.submit(_lending(resources={"workers": 2, "cpus_per_worker": 1}))
    champion = first.result(timeout=300).registration
    assert champion is not None
    assert champion.is_registered
    assert all("no_champion" in gate.why for gate in first.view.gates)
    noise = {"label_noise": {"where": {}, "share": 0.5, "seed": 1}}
    worse = client.submit(_lending(data=noise))
    assert worse.result(timeout=300).report_outcome == "fail"
    failed = worse.view.gates[0]
    assert (failed.outcome, "even the upper bound" in failed.why) == ("fail", True)
    assert failed.champion is not None
    told = (failed.champion.experiment, failed.champion.name, failed.champion.version)
    assert told == (first.id, "loans", champion.version)
    assert failed.value == pytest.approx((failed.champion.of_model or 0) - (failed.champion.of_champion or 0))
    equal = client.submit(_lending())
    ended = equal.result(timeout=300)
    assert [gate.outcome for gate in ended.gates] == ["pass", "pass"]
    assert ended.registration is not None
    assert ended.registration.version == str(int(champion.version or 0) + 1)
    other_rows = client.submit(_lending(data={"split": {"train": 0.6, "validation": 0.1, "test": 0.3, "seed": 5}}))
    assert other_rows.result(timeout=300).report_outcome == "inconclusive"
    assert "the champion was evaluated on other rows" in other_rows.view.gates[0].why
    page = worse.report_html()
    assert f"loans version {champion.version}, experiment {first.id}" in page
    print_gates(Console(width=250), worse.view.gates)
    shown = capsys.readouterr().out
    assert f"champion: loans version {champion.version}, experiment {first.id}" in shown
    assert "champion 0." in " ".join(shown.split())
