"""Words spoken by a program that many machines have: espeak-ng."""

import io
import shutil
import subprocess
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Source
from fairlead.errors import BadData, Problem

WORDS = ("yes", "no", "up", "down", "left", "right", "stop", "go", "on", "off")
VOICES = {
    "american-one": "en-us+m1",
    "american-two": "en-us+f1",
    "american-three": "en-us+linda",
    "american-four": "en-us+Andrea",
    "british": "en-gb",
    "caribbean": "en-029",
    "lancaster": "en-gb-x-gbclan",
    "midlands": "en-gb-x-gbcwmd+klatt2",
    "received": "en-gb-x-rp+edward",
    "scottish": "en-gb-scotland+m4",
}
SPEEDS = {"slow": (75, 90), "fast": (110, 130)}
"""Percent of espeak-ng's usual speed, two of each band."""
PITCHES = (60, 100, 140)
"""Percent of a voice's usual pitch."""
SAMPLE_RATE = 11_025
SECONDS = 0.6
_SPOKEN_RATE = 2 * SAMPLE_RATE
_PAUSE_S = 0.6
_SHORTEST_PAUSE_S = 0.3
"""Nothing within a word is silent for so long."""


def spoken_words(*, seed: int = 0) -> Source:
    """1,200 sounds of 0.6 s: ten words by ten voices of espeak-ng, each at four speeds and three pitches, in noise.

    A word begins at a random moment, so that it ends within the sound, and has a random loudness: its root mean square
    is 0.02 to 0.1. White noise is 5 to 25 decibels weaker than the word. All are uniform. ``voice`` names the voice,
    ``speed`` is slow or fast, ``noise`` is strong where it is less than 15 decibels weaker, else faint. The same
    release of espeak-ng gives the same rows. Raises ``BadData`` where espeak-ng is not installed.
    """
    random = np.random.RandomState(seed)
    spoken = [word for voice in VOICES.values() for word in _spoken_by(voice)]
    rows = [(voice, speed, word) for voice in VOICES for speed, _, _ in _manners() for word in WORDS]
    sounds = np.empty((len(spoken), round(SECONDS * SAMPLE_RATE)), dtype=np.float32)
    loudness = random.uniform(0.02, 0.1, size=len(rows))
    distance = random.uniform(5, 25, size=len(rows))
    for row, word in enumerate(spoken):
        word = word[: sounds.shape[1]]
        begin = random.randint(sounds.shape[1] - len(word) + 1)
        noise = random.standard_normal(sounds.shape[1]) * loudness[row] * 10 ** (-distance[row] / 20)
        sounds[row] = noise
        sounds[row, begin : begin + len(word)] += word / np.sqrt(np.mean(word**2)) * loudness[row]
    voices, speeds, words = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    return Source(
        uri="builtin://spoken_words",
        num_rows=len(rows),
        columns={
            "word": words,
            "voice": voices,
            "speed": speeds,
            "noise": np.where(distance < 15, "strong", "faint").astype(object),
        },
        kind="audio",
        array=sounds,
        target="word",
        level_order={"speed": tuple(SPEEDS), "noise": ("faint", "strong")},
        details={"sample_rate": SAMPLE_RATE},
    )


def _manners() -> list[tuple[str, int, int]]:
    """Band of speed, speed and pitch, in the order in which a voice speaks all words."""
    return [(name, speed, pitch) for name, speeds in SPEEDS.items() for speed, pitch in product(speeds, PITCHES)]


def _spoken_by(voice: str) -> list[NDArray[np.float64]]:
    """What a voice says, word by word; each of shape (samples,).

    One call for all words: starting espeak-ng takes longer than speaking. It is silent to the last bit in pauses.
    """
    pause = f'<break time="{round(1000 * _PAUSE_S)}ms"/>'
    said = "".join(
        f'<prosody rate="{speed}%" pitch="{pitch}%">{word}</prosody>{pause}'
        for _, speed, pitch in _manners()
        for word in WORDS
    )
    samples = _recorded(voice, f"<speak>{said}</speak>")
    loud = np.flatnonzero(samples)
    ends = np.flatnonzero(np.diff(loud) > _SHORTEST_PAUSE_S * _SPOKEN_RATE)
    begins = loud[np.r_[0, ends + 1]]
    finishes = loud[np.r_[ends, len(loud) - 1]] + 1
    wanted = len(_manners()) * len(WORDS)
    if len(begins) != wanted:
        message = f"espeak-ng's voice {voice} said {len(begins)} words instead of {wanted}"
        raise _refusal(message, "install the package espeak-ng with its voices, such as release 1.51")
    return [_halved(samples[begin:finish]) for begin, finish in zip(begins, finishes, strict=True)]


def _recorded(voice: str, text: str) -> NDArray[np.float64]:
    import soundfile

    program = shutil.which("espeak-ng")
    if program is None:
        message = "builtin://spoken_words are spoken by espeak-ng, which is not installed here"
        raise _refusal(message, "install the package espeak-ng wherever workers run")
    command = [program, "-m", "-v", voice, "--stdin", "--stdout"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False, timeout=120)
    if done.returncode != 0 or not done.stdout:
        reason = done.stderr.decode(errors="replace").strip()[:200]
        raise _refusal(f"espeak-ng cannot speak as {voice}: {reason}", "install it with its voices")
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float64")
    if rate != _SPOKEN_RATE:
        raise _refusal(
            f"espeak-ng speaks {rate} samples a second as {voice}, not {_SPOKEN_RATE}", "use another release"
        )
    return samples


def _halved(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half as many samples a second: what lies above the new half of the rate is left out."""
    length = 2 ** int(np.ceil(np.log2(len(samples))))  # filled up with silence, as other lengths take long
    halved = np.fft.irfft(np.fft.rfft(samples, n=length)[: length // 4 + 1], n=length // 2) / 2
    return halved[: -(-len(samples) // 2)]


def _refusal(message: str, hint: str) -> BadData:
    problem = Problem(pointer="/data/uri", message=message, suggestion=hint)
    return BadData(f"{message}; {hint}", problems=(problem,))
