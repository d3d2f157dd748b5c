"""Texts and pairs of texts. A *record* of a text is a chunk of stated length; the chunks of a file are one *block*.

Files are UTF-8: what is not is refused with the file and the first byte that is wrong.
"""

import csv
import gzip
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Column, Source
from fairlead.data.storage import MAX_PROBLEMS, bad, content_of
from fairlead.errors import BadData, Problem
from fairlead.spec import DataSpec, TextSpec

TEXT_ENDINGS = (".txt", ".md", ".rst", ".text")
PAIRS_ENDING = ".tsv"
SOURCE, ANSWER = "source", "answer"
"""The columns that a TSV of pairs must have. Others are carried beside."""


def is_folder(files: Any, root: str) -> bool:
    """Whether every file below ``root`` is a text by its name, hidden ones aside."""
    names = [os.path.basename(path) for path in files.find(root)]
    seen = [name for name in names if not name.startswith(".")]
    return bool(seen) and all(name.lower().removesuffix(".gz").endswith(TEXT_ENDINGS) for name in seen)


def read_folder(uri: str, files: Any, root: str) -> Source:
    """One document a file, in the order of their names. Raises ``BadData`` listing the files that are no texts."""
    paths = {os.path.relpath(path, root).replace(os.sep, "/"): path for path in files.find(root)}
    names = sorted(name for name in paths if not os.path.basename(name).startswith("."))
    found: list[str] = []
    problems: list[Problem] = []
    for name in names:
        try:
            found.append(_text(f"{uri}/{name}", content_of(f"{uri}/{name}", files, paths[name])))
        except BadData as error:
            problems += error.problems
        if len(problems) == MAX_PROBLEMS:
            break
    if problems:
        raise BadData("; ".join(problem.message for problem in problems[:3]), problems=tuple(problems))
    folders = [os.path.dirname(name) or "." for name in names]
    return documents(uri, names, found, columns={"file": as_objects(names), "folder": as_objects(folders)})


def read_file(uri: str, files: Any, root: str) -> Source:
    """A single document. Raises ``BadData``."""
    name = os.path.basename(root)
    return documents(uri, [name], [_text(uri, content_of(uri, files, root))], columns={"file": as_objects([name])})


def documents(uri: str, names: Sequence[str], found: Sequence[str], *, columns: Mapping[str, Column]) -> Source:
    """A source of whole documents, before they are cut into records."""
    return Source(
        uri=uri,
        num_rows=len(found),
        columns=columns,
        kind="text",
        array=as_objects(found),
        learns="next byte",
        ids=as_objects(names),
    )


def cut(source: Source, spec: DataSpec) -> Source:
    """``source`` with its documents cut into records; what holds no texts is left as it is, unless the spec cuts it.

    Raises ``BadData`` where ``data.text`` is given for other data.
    """
    if source.kind != "text":
        if spec.text is not None:
            raise bad("/data/text", f"{source.uri} holds no texts that could be cut into records")
        return source
    assert source.array is not None, "documents have texts"
    assert source.ids is not None, "and names"
    size = (spec.text or TextSpec()).record_bytes
    chunks = [list(_chunks(text, size)) for text in source.array]
    counts = [len(found) for found in chunks]
    block = np.repeat(np.arange(source.num_rows), counts)
    places = np.concatenate([np.arange(count) for count in counts])
    return replace(
        source,
        num_rows=len(block),
        columns={name: column[block] for name, column in source.columns.items()},
        array=as_objects([chunk for found in chunks for chunk in found]),
        ids=as_objects([f"{source.ids[of]}#{place}" for of, place in zip(block, places, strict=True)]),
        blocks=block,
    )


def _chunks(text: str, size: int) -> Iterator[str]:
    """Pieces of at most ``size`` bytes each that together are ``text``; no character is cut."""
    content = text.encode()
    at = 0
    while at < len(content):
        end = min(at + size, len(content))
        while end < len(content) and content[end] & 0xC0 == 0x80:  # a byte inside a character
            end -= 1
        yield content[at:end].decode()
        at = end


def read_pairs(uri: str, files: Any, root: str) -> Source:
    """Lines of a TSV whose first one names its columns, ``source`` and ``answer`` among them; quotes mean nothing.

    Raises ``BadData`` naming the line.
    """
    lines = csv.reader(io.StringIO(_text(uri, content_of(uri, files, root))), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(lines)
    if missing := [name for name in (SOURCE, ANSWER) if header.count(name) != 1]:
        hint = f"the first line must name the columns {SOURCE} and {ANSWER}, with a tab between"
        raise bad("/data/uri", f"{uri}: line 1 does not name one column {missing[0]!r}", hint)
    rows = list(lines)
    problems = list(_flaws(uri, header, rows))[:MAX_PROBLEMS]
    if problems:
        raise BadData("; ".join(problem.message for problem in problems[:3]), problems=tuple(problems))
    if not rows:
        raise bad("/data/uri", f"{uri}: the file names columns but holds no pairs")
    columns = {name: as_objects([row[place] for row in rows]) for place, name in enumerate(header)}
    return pairs(uri, columns.pop(SOURCE), columns.pop(ANSWER), columns=columns)


def _flaws(uri: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Problem]:
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            message = f"{uri}: line {number} has {len(row)} fields, the first line names {len(header)}"
            yield Problem(pointer="/data/uri", message=message)
        elif empty := [name for name in (SOURCE, ANSWER) if not row[header.index(name)].strip()]:
            yield Problem(pointer="/data/uri", message=f"{uri}: line {number} has an empty {empty[0]}")


def pairs(uri: str, sources: Column, answers: Column, *, columns: Mapping[str, Column]) -> Source:
    """A source of pairs: texts and what each is to become. Equal sources are one block: see ``splits.split_rows``."""
    _, block = np.unique(sources.astype(str), return_inverse=True)
    return Source(
        uri=uri,
        num_rows=len(sources),
        columns=columns,
        kind="pairs",
        array=sources,
        targets={ANSWER: answers},
        learns=ANSWER,
        blocks=block.astype(np.int64),
    )


def _text(uri: str, content: bytes) -> str:
    """The text of a file, lines ended by a line feed. Raises ``BadData``."""
    if uri.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise bad("/data/uri", f"{uri}: this is not a gzip file: {error}") from error
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        message = f"{uri}: byte {error.start + 1} ({content[error.start]:#04x}) is not UTF-8"
        raise bad("/data/uri", message, "save the file as UTF-8") from error
    if not text.strip():
        raise bad("/data/uri", f"{uri}: the file is empty")
    return text


def as_objects(values: Sequence[str]) -> NDArray[Any]:
    """Texts as a column."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
