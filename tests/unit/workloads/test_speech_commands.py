"""What is special about the page for spoken words: its picture of a sound, its changes of sounds, its bad input."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from fairlead.data import open_dataset
from fairlead.errors import BadData
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import train_here
from fairlead_workloads import speech_commands
from fairlead_workloads.speech_commands import LogMel, Settings, draw_changes, mel_bands, shift

RATE = 8000


def tones(root: Path, *, seconds: float = 0.2, each: int = 20) -> Path:
    """Two words that are a low and a high tone."""
    random = np.random.RandomState(0)
    time = np.arange(round(seconds * RATE)) / RATE
    for word, tone in (("low", 400), ("high", 2500)):
        (root / word).mkdir(parents=True)
        for number in range(each):
            noise = 0.05 * random.standard_normal(len(time))
            soundfile.write(root / word / f"{number}.wav", 0.3 * np.sin(2 * np.pi * tone * time) + noise, RATE)
    return root


def spec_of(root: Path, **params: Any) -> ExperimentSpec:
    quick = {"bands": 16, "width": 4, "hidden": 8, "epochs": 6, "batch_size": 8, **params}
    content = {"name": "a", "workload": "speech_commands", "params": quick, "data": {"uri": str(root)}}
    return ExperimentSpec.model_validate(content)


@pytest.mark.parametrize(("bands", "points", "rate"), [(40, 512, 16_000), (24, 256, 8000), (64, 1024, 22_050)])
def test_bands_are_those_of_an_independent_implementation(bands: int, points: int, rate: int) -> None:
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(points // 2 + 1, bands, 0.0, rate / 2, rate, norm=None, mel_scale="htk")
    found = mel_bands(bands=bands, num_frequencies=points // 2 + 1, sample_rate=rate)
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


def test_a_column_is_the_logarithm_of_the_power_in_each_band() -> None:
    picture = LogMel(sample_rate=RATE, bands=16)
    sound = np.random.RandomState(0).standard_normal(1600).astype(np.float32)
    columns = picture(torch.from_numpy(sound)[None])[0].numpy()
    expected = []
    for middle in range(0, 1601, 80):  # 10 ms apart, 25 ms wide, in 256 points, silence beyond both ends
        part = np.pad(sound, 128)[middle : middle + 256]
        shape = np.pad(np.hanning(201)[:-1], 28)
        power = np.abs(np.fft.rfft(part * shape)) ** 2
        bands = mel_bands(bands=16, num_frequencies=129, sample_rate=RATE).numpy().astype(np.float64)
        expected.append(np.log(power @ bands + 1e-6))
    assert columns == pytest.approx(np.array(expected).T - np.mean(expected), abs=1e-3)


def test_a_tone_lies_in_the_band_of_its_frequency_however_loud() -> None:
    picture = LogMel(sample_rate=RATE, bands=20)
    time = torch.arange(1600) / RATE
    for band in (3, 10, 16):
        peak = mel_bands(bands=20, num_frequencies=4001, sample_rate=RATE)[:, band].argmax()  # a point for each hertz
        tone = torch.sin(2 * torch.pi * peak * time)[None]
        assert picture(tone)[0, :, 10].argmax() == band
        noisy = tone + 0.1 * torch.randn(1, 1600, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(picture(noisy), picture(5 * noisy), atol=1e-2)


def test_a_rank_without_rows_takes_part_with_a_gradient_of_zero() -> None:
    model = speech_commands.SpeechNet(sample_rate=RATE, bands=16, width=4, hidden=8, classes=3)
    assert model.picture(torch.zeros(0, 1600)).shape == (0, *model.picture(torch.zeros(1, 1600)).shape[1:])
    model(torch.zeros(0, 1600), torch.ones(0, 16)).sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_sounds_move_by_whole_samples() -> None:
    sounds = torch.arange(10.0).reshape(2, 5)
    assert shift(sounds, np.array([1, -2])).tolist() == [[4, 0, 1, 2, 3], [7, 8, 9, 5, 6]]
    assert shift(sounds[:0], np.zeros(0, np.int64)).shape == (0, 5)


def test_masks_hide_neighbouring_bands_and_not_too_many() -> None:
    shifts, masks = draw_changes(5000, Settings(bands=10, mask=4), most=3, seed=0, epoch=1)
    assert sorted(set(shifts.tolist())) == [-3, -2, -1, 0, 1, 2, 3]
    hidden = 10 - masks.sum(axis=1)
    assert sorted(set(hidden.tolist())) == [0, 1, 2, 3, 4]
    assert np.abs(np.diff(masks, axis=1)).sum(axis=1).max() == 2, "one gap"
    assert (masks == 0).any(axis=0).all(), "any band may be hidden"
    nothing = draw_changes(50, Settings(bands=10, mask=0), most=0, seed=0, epoch=1)
    assert not nothing[0].any()
    assert nothing[1].all()


def test_two_words_of_a_folder_are_told_apart_shown_and_told_apart_again(tmp_path: Path) -> None:
    spec = spec_of(tones(tmp_path / "words"))
    trained = train_here(speech_commands.train, spec, export_to=tmp_path / "model", samples_to=tmp_path / "samples")
    table = trained.states["test"].counts.sum(axis=0)  # type: ignore[union-attr]
    assert np.trace(table) == table.sum() == 12
    rows = open_dataset(spec.data).rows("test")
    scores = speech_commands.load(tmp_path / "model")(rows.features)
    assert (scores.argmax(axis=1) == rows.labels).all()
    recording = next((tmp_path / "samples").glob("1-*-taken-for-*.wav"))
    samples, rate = soundfile.read(io.BytesIO(recording.read_bytes()))
    assert (len(samples), rate) == (1600, RATE)
    assert Image.open(recording.with_suffix(".png")).size == (8 * 21, 8 * 16)


@pytest.mark.parametrize(
    ("seconds", "params", "words"),
    [
        (0.02, {}, "sounds of 0.020 s are shorter than the 0.025 s of one column"),
        (0.2, {"batch_size": 25}, "24 rows of the train split are fewer than one batch of 25 over 1 ranks"),
    ],
)
def test_sounds_that_cannot_be_learnt_are_refused(
    tmp_path: Path, seconds: float, params: dict[str, Any], words: str
) -> None:
    spec = spec_of(tones(tmp_path / "words", seconds=seconds), **params)
    with pytest.raises(BadData, match=words):
        train_here(speech_commands.train, spec)
