"""What an attempt has to say, on disk before anyone is told: one append-only file of JSON lines a stream.

A record's number in its file is its offset, for ever. The file outlives the runner; a last line without its end was
being written when the runner died and does not count.
"""

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from fairlead.protocol import MetricPoint, NoteRecord, TrialRecord
from fairlead.run.messages import Report

Stream = Literal["metrics", "notes", "trials"]
Record = MetricPoint | NoteRecord | TrialRecord
STREAMS: tuple[Stream, ...] = ("metrics", "notes", "trials")
_RECORDS: dict[Stream, type[Record]] = {"metrics": MetricPoint, "notes": NoteRecord, "trials": TrialRecord}
SPOOL_DIRECTORY = "spool"
MAX_STREAM_BYTES = 512 * 1024 * 1024


def now_ms() -> int:
    """The time as records have it."""
    return time.time_ns() // 1_000_000


def spool_path(attempt: Path, stream: Stream) -> Path:
    """The file of a stream."""
    return attempt / SPOOL_DIRECTORY / f"{stream}.jsonl"


class SpoolWriter:
    """Appends records; safe to use from several threads. A full stream or disk counts what it drops; nothing raises."""

    def __init__(self, attempt: Path, *, max_stream_bytes: int = MAX_STREAM_BYTES) -> None:
        (attempt / SPOOL_DIRECTORY).mkdir(parents=True, exist_ok=True)
        self._files: dict[Stream, BinaryIO] = {
            stream: open(spool_path(attempt, stream), "ab", buffering=0)  # noqa: SIM115  # closed by close()
            for stream in STREAMS
        }
        self._is_torn = dict.fromkeys(STREAMS, False)
        self._max_stream_bytes = max_stream_bytes
        self._lock = threading.Lock()
        self.num_dropped = 0

    def metrics(self, values: Mapping[str, float], *, step: int, at_ms: int) -> None:
        """Append one point a metric."""
        lines = [_metric_line(key, value, step, at_ms) for key, value in values.items()]
        self._append("metrics", lines)

    def reports(self, reports: Iterable[tuple[Report, Mapping[str, float]]]) -> None:
        """Append one point for each of the values beside each report, all in one write."""
        lines = [
            _metric_line(key, value, report.step, report.at_ms)
            for report, values in reports
            for key, value in values.items()
        ]
        self._append("metrics", lines)

    def note(self, kind: str, *, at_ms: int, detail: str = "", payload: Mapping[str, Any] | None = None) -> None:
        """Append one note."""
        record = NoteRecord(kind=kind, detail=detail, payload=dict(payload or {}), at_ms=at_ms)
        self._append("notes", [record.model_dump_json()])

    def trial(self, record: TrialRecord) -> None:
        """Append what has become of a trial."""
        self._append("trials", [record.model_dump_json()])

    def flush(self) -> None:
        """Bring everything to disk. Raises ``OSError``."""
        for file in self._files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        """Flush as far as the disk lets us, and take no more."""
        with contextlib.suppress(OSError):
            self.flush()
        for file in self._files.values():
            file.close()

    def _append(self, stream: Stream, lines: Sequence[str]) -> None:
        block = "".join(f"{line}\n" for line in lines).encode()
        with self._lock:
            file = self._files[stream]
            if self._is_torn[stream]:  # what was cut short must not swallow the next record
                block = b"\n" + block
            has_room = file.tell() + len(block) <= self._max_stream_bytes
            written = _written(file, block) if has_room else 0
            if written < len(block):
                self._is_torn[stream] |= written > 0
                self.num_dropped += min(len(lines), block.count(b"\n", written))
            else:
                self._is_torn[stream] = False


def _written(file: BinaryIO, block: bytes) -> int:
    try:
        return file.write(block)
    except OSError:  # the disk is full, or gone for now
        return 0


def _metric_line(key: str, value: float, step: int, at_ms: int) -> str:
    number: float | str = value
    if not math.isfinite(value):
        number = "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return json.dumps({"key": key, "value": number, "step": step, "at_ms": at_ms})


class SpoolReader:
    """Reads a stream from any offset, and remembers where in the file the next one starts."""

    def __init__(self, attempt: Path, stream: Stream) -> None:
        self._path = spool_path(attempt, stream)
        self._stream = stream
        self._offset = 0
        self._position = 0

    def read(self, offset: int, limit: int) -> list[Record]:
        """Up to ``limit`` records from record ``offset`` on; fewer, or none, at the end of what is complete."""
        if offset < self._offset:
            self._offset = self._position = 0
        try:
            with open(self._path, "rb") as file:
                self._seek(file, offset)
                return self._next(file, limit) if self._offset == offset else []
        except FileNotFoundError:
            return []

    def _seek(self, file: BinaryIO, offset: int) -> None:
        file.seek(self._position)
        while self._offset < offset and (line := file.readline()).endswith(b"\n"):
            self._offset += _is_record(line)
            self._position = file.tell()
        file.seek(self._position)

    def _next(self, file: BinaryIO, limit: int) -> list[Record]:
        records: list[Record] = []
        while len(records) < limit and (line := file.readline()).endswith(b"\n"):
            if _is_record(line):
                records.append(self._parse(line))
        return records

    def _parse(self, line: bytes) -> Record:
        return _RECORDS[self._stream].model_validate_json(line)


def _is_record(line: bytes) -> bool:
    """A machine that lost its power may leave a line of zeros or half a line; it has no number."""
    return line.startswith(b"{") and line.endswith(b"}\n")
