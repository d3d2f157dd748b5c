"""The digest of a data set: equal for equal rows, however they were read and wherever they lie."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.mapped import Mapped
from fairlead.workload import Attribute, FeatureColumn


def digest_of(
    columns: Sequence[FeatureColumn],
    classes: Sequence[str],
    attributes: Sequence[Attribute],
    arrays: Sequence[NDArray[Any] | Mapped],
) -> str:
    """``sha256:`` over a header of names, then type, shape and little-endian bytes of each array."""
    names = [asdict(column) for column in columns], list(classes), [asdict(a) for a in attributes]
    digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode())
    for array in arrays:
        _enter(digest, array)
    return f"sha256:{digest.hexdigest()}"


def _enter(digest: Any, array: NDArray[Any] | Mapped) -> None:
    if isinstance(array, Mapped):
        digest.update(json.dumps([array.dtype.newbyteorder("<").str, list(array.shape)]).encode())
        for part in array.parts():
            digest.update(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).data)
        return
    if array.dtype == object:  # texts, bytes or arrays, each of a length of its own
        digest.update(json.dumps(["objects", list(array.shape)]).encode())
        for item in array.ravel():
            content = item.encode() if isinstance(item, str) else item
            _enter(digest, np.frombuffer(content, np.uint8) if isinstance(content, bytes) else np.asarray(content))
        return
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest.update(json.dumps([little.dtype.str, list(little.shape)]).encode())
    digest.update(little.data)
