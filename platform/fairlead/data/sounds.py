"""Sounds: a folder of audio files with one directory a class.

All files have one sample rate, as nothing is resampled here without being asked: what a model hears of a sound would
depend on a filter that nobody chose. Several channels are mixed down to their mean.
"""

import io
import os
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Source
from fairlead.data.storage import MAX_PROBLEMS, bad, content_of
from fairlead.errors import BadData, Problem

SOUND_ENDINGS = (".wav", ".flac", ".ogg")
LONGEST_S = 30.0
"""Without ``data.seconds`` all sounds become as long as the longest: one long recording would fill the memory."""


def find_sounds(files: Any, root: str) -> list[str]:
    """Names of all sounds below ``root``, sorted, relative to it."""
    found = [path for path in files.find(root) if path.lower().endswith(SOUND_ENDINGS)]
    return sorted(os.path.relpath(path, root).replace(os.sep, "/") for path in found)


def read_sounds(uri: str, files: Any, root: str, names: list[str]) -> tuple[NDArray[Any], int]:
    """The samples of each file, objects of shape (samples,) in [-1, 1], float32, and their samples a second.

    Raises ``BadData`` naming up to 20 files that cannot be read, hold nothing, or have another rate than the first.
    """
    problems: list[Problem] = []
    sounds = np.empty(len(names), dtype=object)
    first = 0
    for place, name in enumerate(names):
        found = _decoded(files, f"{root.rstrip('/')}/{name}")
        if isinstance(found, str):
            problems.append(Problem(pointer="/data/uri", message=f"{uri}/{name}: {found}"))
        else:
            sounds[place], rate = found
            first = first or rate
            if rate != first:
                message = f"{uri}/{name}: {rate} samples a second, the first sound has {first}"
                hint = "bring all sounds to one rate first"
                problems.append(Problem(pointer="/data/uri", message=message, suggestion=hint))
        if len(problems) == MAX_PROBLEMS:
            break
    if problems:
        raise BadData("; ".join(problem.message for problem in problems[:3]), problems=tuple(problems))
    return sounds, first


def _decoded(files: Any, path: str) -> tuple[NDArray[np.float32], int] | str:
    """Samples and their rate, or why there are none."""
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(content_of(path, files, path)), dtype="float32", always_2d=True)
    except (BadData, soundfile.LibsndfileError) as error:
        return f"the sound cannot be read: {error}"
    if not len(samples):
        return "the sound is empty"
    if not np.isfinite(samples).all():
        return "the sound has samples that are no finite numbers"
    return samples.mean(axis=1), int(rate)


def with_one_length(source: Source, seconds: float | None) -> Source:
    """``source`` with sounds of equal length, shape (rows, samples): cut, or filled up with silence, at their ends.

    Sources of another kind are what they were. Raises ``BadData`` where no length is given and one sound is very long,
    and where a length is given for what is no sound.
    """
    if source.kind != "audio":
        if seconds is not None:
            raise bad("/data/seconds", f"{source.uri} holds no sounds that could be made so long")
        return source
    rate = int(source.details["sample_rate"])
    assert source.array is not None, "sounds have samples"
    lengths = np.array([len(sound) for sound in source.array])
    if seconds is None and lengths.max() > LONGEST_S * rate:
        name = source.ids[int(lengths.argmax())] if source.ids is not None else f"row {int(lengths.argmax()) + 1}"
        message = f"{source.uri}: {name} is {lengths.max() / rate:.1f} s long, and all sounds would be made so long"
        raise bad("/data/seconds", message, "set data.seconds")
    width = int(lengths.max()) if seconds is None else max(1, round(seconds * rate))
    array = np.zeros((source.num_rows, width), dtype=np.float32)
    for row, sound in enumerate(source.array):
        array[row, : min(width, len(sound))] = sound[:width]
    return replace(source, array=array)
