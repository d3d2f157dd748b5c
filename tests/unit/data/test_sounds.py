"""Folders of sounds, their length, and the words that espeak-ng speaks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairlead.data import open_dataset
from fairlead.data.builtin import speech
from fairlead.errors import BadData
from fairlead.spec import DataSpec

RATE = 1000


def folder_of(root: Path, *, seconds: float = 0.1) -> Path:
    """Two words, five sounds each; sound n of ``no`` holds n hundredths, of ``yes`` minus as many."""
    for word, sign in (("no", 1), ("yes", -1)):
        (root / word).mkdir(parents=True)
        for number in range(5):
            samples = np.full(round(seconds * RATE) + number, sign * number / 100)
            soundfile.write(root / word / f"{number}.wav", samples, RATE, subtype="FLOAT")
    return root


def test_a_folder_has_one_word_a_directory_and_silence_fills_sounds_up(tmp_path: Path) -> None:
    dataset = open_dataset(DataSpec(uri=str(folder_of(tmp_path / "words"))))
    assert (dataset.info.kind, dataset.info.classes) == ("audio", ("no", "yes"))
    assert dataset.info.details == {"sample_rate": RATE}
    assert dataset.features.shape == (10, 104)
    assert dataset.features[3, 102:].tolist() == pytest.approx([0.03, 0.0])
    assert dataset.features[6, 0] == pytest.approx(-0.01)


@pytest.mark.parametrize(("seconds", "width"), [(0.05, 50), (0.5, 500)])
def test_sounds_are_made_as_long_as_asked(tmp_path: Path, seconds: float, width: int) -> None:
    dataset = open_dataset(DataSpec(uri=str(folder_of(tmp_path / "words")), seconds=seconds))
    assert dataset.features.shape == (10, width)
    assert dataset.features[9, 40] == pytest.approx(-0.04)


def test_channels_are_mixed_and_flac_is_read_too(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "words")
    both = np.stack([np.full(100, 0.5), np.full(100, 0.25)], axis=1)
    soundfile.write(root / "no" / "a.flac", both, RATE)
    dataset = open_dataset(DataSpec(uri=str(root)))
    assert dataset.features[5, 50] == pytest.approx(0.375)


def test_metadata_say_who_speaks(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "words")
    (root / "metadata.csv").write_text("file_name,speaker\nno/0.wav,one\nyes/4.wav,two\n")
    dataset = open_dataset(DataSpec(uri=str(root), sensitive=("speaker",)))
    assert dataset.codes[:, 0].tolist() == [0, *[2] * 8, 1]


def _other_rate(root: Path) -> None:
    soundfile.write(root / "yes" / "2.wav", np.zeros(100), 2 * RATE)


def _damage(root: Path) -> None:
    (root / "yes" / "2.wav").write_bytes(b"RIFF but no sound")


def _empty(root: Path) -> None:
    soundfile.write(root / "yes" / "2.wav", np.zeros(0), RATE)


def _not_a_number(root: Path) -> None:
    soundfile.write(root / "yes" / "2.wav", np.full(10, np.nan), RATE, subtype="FLOAT")


def _stray(root: Path) -> None:
    soundfile.write(root / "2.wav", np.zeros(100), RATE)


def _one_word(root: Path) -> None:
    for path in (root / "yes").iterdir():
        path.unlink()


def _long(root: Path) -> None:
    soundfile.write(root / "yes" / "2.wav", np.zeros(31 * RATE), RATE)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_other_rate, "yes/2.wav: 2000 samples a second, the first sound has 1000"),
        (_damage, "yes/2.wav: the sound cannot be read"),
        (_empty, "yes/2.wav: the sound is empty"),
        (_not_a_number, "yes/2.wav: the sound has samples that are no finite numbers"),
        (_stray, "2.wav is not in a class directory"),
        (_one_word, "one class only, 'no'"),
        (_long, "yes/2.wav is 31.0 s long.*set data.seconds"),
    ],
)
def test_what_is_no_set_of_sounds_is_refused_by_name(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    root = folder_of(tmp_path / "words")
    spoil(root)
    with pytest.raises(BadData, match=words):
        open_dataset(DataSpec(uri=str(root)))


def test_at_most_twenty_files_are_listed(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / "words" / "no").mkdir(parents=True, exist_ok=True)
        (tmp_path / "words" / "no" / f"{number}.wav").write_bytes(b"nothing")
    with pytest.raises(BadData) as raised:
        open_dataset(DataSpec(uri=str(tmp_path / "words")))
    assert len(raised.value.problems) == 20


def test_only_sounds_have_seconds() -> None:
    with pytest.raises(BadData, match="holds no sounds"):
        open_dataset(DataSpec(uri="builtin://digits", seconds=1.0))
    assert "seconds" not in DataSpec(uri="builtin://digits").model_dump()


def test_ten_words_are_spoken_by_ten_voices_alike_often() -> None:
    dataset = open_dataset(DataSpec(uri="builtin://spoken_words", sensitive=("voice", "speed", "noise")))
    assert dataset.features.shape == (1200, 6615)
    assert dataset.info.classes == tuple(sorted(speech.WORDS))
    assert np.bincount(dataset.all_labels).tolist() == [120] * 10
    assert np.bincount(dataset.codes[:, 0]).tolist() == [120] * 10
    assert np.bincount(dataset.codes[:, 1]).tolist() == [600] * 2
    assert np.abs(dataset.features).max() < 1
    again = speech.spoken_words().array
    assert again is not None
    assert np.array_equal(dataset.features, again)
    other = speech.spoken_words(seed=1).array
    assert other is not None
    assert not np.array_equal(again, other)


def test_voices_differ() -> None:
    first_words = [speech._spoken_by(voice)[0] for voice in speech.VOICES.values()]
    assert len({word.tobytes() for word in first_words}) == len(speech.VOICES)


def test_half_the_samples_are_the_same_sound() -> None:
    time = np.arange(4096) / (2 * speech.SAMPLE_RATE)
    fade = np.hanning(len(time))  # a tone that begins and ends at once holds every frequency
    for tone, kept in ((440.0, 1.0), (5000.0, 1.0), (6000.0, 0.0)):
        spoken = fade * np.sin(2 * np.pi * tone * time)
        assert speech._halved(spoken) == pytest.approx(kept * spoken[::2], abs=1e-4)


def test_without_espeak_the_refusal_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadData, match="install the package espeak-ng"):
        open_dataset(DataSpec(uri="builtin://spoken_words"))
