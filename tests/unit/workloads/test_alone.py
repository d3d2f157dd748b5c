import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairlead.data.alone import run_alone
from fairlead_workloads import image_cnn, tabular_mlp


def run(*arguments: str) -> None:
    run_alone(tabular_mlp.train, workload="tabular_mlp", example="diabetes_risk", arguments=arguments)


def test_a_page_runs_alone_and_shows_groups_and_gates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run("--epochs=2", "--save", str(tmp_path / "out"))
    shown = capsys.readouterr().out
    for words in ("265 rows x 10 inputs", "step    2", "validation/loss", "test split by sex", ">=60", "gate "):
        assert words in shown
    predict = tabular_mlp.load(tmp_path / "out" / "model")
    assert predict(np.zeros((2, 10))).shape == (2, 2)
    run("--epochs=3", "--resume", str(tmp_path / "out" / "checkpoint"))
    assert "from epoch 3" in capsys.readouterr().out


def test_other_data_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    run("--epochs=1", "--data=builtin://breast_cancer", "--hidden=[4,4]", "--lr=1e-3")
    assert "341 rows x 30 inputs" in capsys.readouterr().out


def test_a_folder_of_pictures_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.RandomState(0)
    for name in ("dark", "light"):
        (tmp_path / name).mkdir()
        for number in range(20):
            noise = random.randint(0, 60, size=(8, 10, 3)) + (180 if name == "light" else 0)
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    arguments = (f"--data={tmp_path}", "--epochs=4", "--width=8", "--batch-size=8")
    run_alone(image_cnn.train, workload="image_cnn", example="digits", arguments=arguments)
    shown = capsys.readouterr().out
    assert "24 pictures of 3 x 8 x 10, 2 classes" in shown
    assert "1.000" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs=0"], "epochs: must be at least 1"),
        (["--lr=fast"], "must be a number, not 'fast'"),
        (["--hidden=3"], "must be a list of whole numbers"),
        (["--data=builtin://digits"], "this workload needs columns of a table"),
        (["--data=nowhere.csv"], "nothing is there"),
        (["--spec=nowhere.yaml"], "no spec nowhere.yaml"),
        (["--resume=nowhere"], "no checkpoint directory nowhere"),
    ],
)
def test_input_that_cannot_be_used_ends_with_status_2_and_a_reason(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert words in " ".join(capsys.readouterr().out.split())


def test_a_spec_of_another_workload_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text("{name: a, workload: image_cnn, data: {uri: 'builtin://digits'}}")
    with pytest.raises(SystemExit):
        run(f"--spec={tmp_path / 's.yaml'}")
    assert "a spec for image_cnn" in " ".join(capsys.readouterr().out.split())


def test_help_lists_the_parameters(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tabular_mlp", "--help"])
    with pytest.raises(SystemExit):
        run_alone(tabular_mlp.train, workload="tabular_mlp", example="diabetes_risk")
    assert "--weight_decay" in capsys.readouterr().out
