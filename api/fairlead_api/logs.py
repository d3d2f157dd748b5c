"""What workers printed: capped segment files below an attempt's path, read in bounded pieces.

``logs/rank-<r>.<nnn>.log``, and ``rank-<r>.stacks.log`` for what its threads were doing when it stalled. Segments in
the middle of a very long log are deleted while it grows, so a position is (segment, byte) packed into one growing
number: 0 is the beginning, and the next one comes with each answer.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fairlead.protocol import LOG_DIRECTORY

MAX_READ_BYTES = 2**20
MAX_TAIL_LINES = 10_000
_STRIDE = 2**32
_SEGMENT = re.compile(r"^rank-(\d+)\.(\d+)\.log$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Bytes of one segment, from the position ``offset``."""

    offset: int
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Bytes of a log; ``start`` is where the reader asked for them."""

    start: int
    blocks: tuple[Block, ...] = ()

    @property
    def content(self) -> bytes:
        """All of them together."""
        return b"".join(block.content for block in self.blocks)

    @property
    def next_offset(self) -> int:
        """The position behind them."""
        last = self.blocks[-1] if self.blocks else Block(offset=self.start, content=b"")
        return last.offset + len(last.content)

    def whole_lines(self) -> "Piece":
        """Without an unfinished last line, unless that fills the piece."""
        content = self.content
        length = content.rfind(b"\n") + 1
        if length == 0 and len(content) >= MAX_READ_BYTES:
            return self
        return Piece(start=self.start, blocks=tuple(_first(self.blocks, length)))

    def last_lines(self, lines: int) -> "Piece":
        """The last ``lines`` lines."""
        kept = b"".join(self.content.splitlines(keepends=True)[-lines:]) if lines else b""
        return Piece(start=self.start, blocks=tuple(_last(self.blocks, len(kept)))) if kept else _empty(self)


def _first(blocks: tuple[Block, ...], length: int) -> list[Block]:
    found = []
    for block in blocks:
        taken = block.content[:length]
        length -= len(taken)
        if taken:
            found.append(Block(offset=block.offset, content=taken))
    return found


def _last(blocks: tuple[Block, ...], length: int) -> list[Block]:
    found: list[Block] = []
    for block in reversed(blocks):
        skipped = max(0, len(block.content) - length)
        length -= len(block.content) - skipped
        if skipped < len(block.content):
            found.insert(0, Block(offset=block.offset + skipped, content=block.content[skipped:]))
    return found


def _empty(piece: Piece) -> Piece:
    return Piece(start=piece.next_offset)


def read_from(attempt: Path, *, rank: int, offset: int) -> Piece:
    """At most ``MAX_READ_BYTES`` from ``offset`` of the log below the directory ``attempt``."""
    first, position = divmod(offset, _STRIDE)
    blocks, left = [], MAX_READ_BYTES
    for number, path in _segments(attempt, rank):
        if number >= first and left > 0:
            start = position if number == first else 0
            block = Block(offset=number * _STRIDE + start, content=_read(path, start, left))
            left -= len(block.content)
            blocks.append(block)
    return Piece(start=offset, blocks=tuple(block for block in blocks if block.content))


def read_tail(attempt: Path, *, rank: int, lines: int) -> Piece:
    """The last ``lines`` lines, of at most ``MAX_READ_BYTES``."""
    blocks: list[Block] = []
    left = MAX_READ_BYTES
    for number, path in reversed(_segments(attempt, rank)):
        start = max(0, _size(path) - left)
        block = Block(offset=number * _STRIDE + start, content=_read(path, start, left))
        blocks.insert(0, block)
        left -= len(block.content)
        if left <= 0 or sum(each.content.count(b"\n") for each in blocks) > lines:
            break
    return Piece(start=0, blocks=tuple(blocks)).last_lines(lines)


def has_stacks(attempt: Path, *, rank: int) -> bool:
    """Whether the rank has shown what its threads were doing."""
    return _size(_stacks(attempt, rank)) > 0


def read_stacks(attempt: Path, *, rank: int) -> Piece:
    """What the threads of a rank were doing when it was asked, the last ``MAX_READ_BYTES`` of it."""
    path = _stacks(attempt, rank)
    start = max(0, _size(path) - MAX_READ_BYTES)
    content = _read(path, start, MAX_READ_BYTES)
    return Piece(start=start, blocks=(Block(offset=start, content=content),) if content else ())


def _stacks(attempt: Path, rank: int) -> Path:
    return attempt / LOG_DIRECTORY / f"rank-{rank}.stacks.log"


def _segments(attempt: Path, rank: int) -> list[tuple[int, Path]]:
    directory = attempt / LOG_DIRECTORY
    try:
        names = [entry.name for entry in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = ((match, directory / name) for name in names if (match := _SEGMENT.match(name)))
    return sorted((int(match[2]), path) for match, path in found if int(match[1]) == rank)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, start: int, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(limit)
    except FileNotFoundError:  # a middle segment that was deleted while we looked
        return b""
