"""Integer arrays as bytes: the same bytes for the same content, without pickle, and closed to anything else.

A zip of ``.npy`` members, stored, under one constant date, so that ``numpy.load`` reads it as an ``.npz``. Mostly
empty arrays are kept as sorted positions and values. The member ``header`` is JSON: what the arrays mean.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

MAX_STATE_BYTES = 64 * 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip member needs a date; a constant one keeps the bytes equal
_MOST_MEMBERS = 40
_DAMAGE = (LookupError, TypeError, RuntimeError, OverflowError, EOFError, AttributeError, zipfile.BadZipFile)


def encode(header: Mapping[str, Any], arrays: Arrays) -> bytes:
    """``header`` and ``arrays`` as bytes."""
    text = json.dumps(dict(header), sort_keys=True).encode()
    members: dict[str, NDArray[Any]] = {"header": np.frombuffer(text, dtype=np.uint8)}
    for name, array in sorted(arrays.items()):
        members |= _packed(name, array)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(members.items()):
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH), _npy(array))
    return buffer.getvalue()


class Encoded:
    """What ``encode`` wrote: the header, and arrays on request.

    Raises ``ValueError`` for bytes that are something else or damaged; memory is taken only after sizes are checked.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._members = dict(_members(data))
            self.header: dict[str, Any] = dict(json.loads(self._members["header"].tobytes()))
        except _DAMAGE as error:
            raise _not_a_state(error) from error

    def restore(self, like: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of the names, types and shapes of ``like``. Raises ``ValueError`` where they are not there."""
        try:
            return {name: _unpacked(name, self._members, array) for name, array in like.items()}
        except _DAMAGE as error:
            raise _not_a_state(error) from error


def _not_a_state(error: Exception) -> ValueError:
    return ValueError(f"these bytes are not an evaluation state: {error!r}")


def digest(header: Mapping[str, Any], arrays: Arrays) -> str:
    """``sha256:`` over name, dtype, shape and little-endian bytes of each array by name, then ``header``."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        sha.update(json.dumps([name, little.dtype.str, list(little.shape)]).encode())
        sha.update(little.tobytes())
    sha.update(json.dumps(dict(header), sort_keys=True).encode())
    return f"sha256:{sha.hexdigest()}"


def _packed(name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    flat = array.ravel()
    filled = np.flatnonzero(flat)
    if 2 * len(filled) >= flat.size:
        return {name: flat}
    return {f"{name}.at": filled.astype("<i8"), f"{name}.value": flat[filled]}


def _unpacked(name: str, members: Arrays, like: NDArray[Any]) -> NDArray[Any]:
    if name in members:
        return members[name].astype(like.dtype).reshape(like.shape)
    at, values = members[f"{name}.at"], members[f"{name}.value"]
    if (at.size and (at.min() < 0 or at.max() >= like.size or np.any(np.diff(at) <= 0))) or at.shape != values.shape:
        raise ValueError(f"array {name!r} of this evaluation state is damaged")
    flat = np.zeros(like.size, dtype=like.dtype)
    flat[at.astype(np.int64)] = values.astype(like.dtype)
    return flat.reshape(like.shape)


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    np.lib.format.write_array(buffer, little, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _members(data: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array of the archive; sizes are checked before memory is taken."""
    if len(data) > 2 * MAX_STATE_BYTES:
        raise ValueError("these bytes are larger than any evaluation state")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if len(archive.infolist()) > _MOST_MEMBERS:
            raise ValueError("these bytes are not an evaluation state: too many members")
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError("these bytes are not an evaluation state: a member is compressed")
            yield info.filename.removesuffix(".npy"), _array(archive.read(info))


def _array(content: bytes) -> NDArray[Any]:
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of this evaluation state has an unknown version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.str not in {"|u1", "<i8", "<u8"} or len(shape) != 1:
        raise ValueError(f"an array of this evaluation state has type {dtype} and shape {shape}")
    values = np.frombuffer(content, dtype=dtype, offset=stream.tell())
    if values.shape != shape:
        raise ValueError("an array of this evaluation state is cut short")
    return values
