"""Texts that the interpreter brings along, and pairs that are made up here."""

import ast
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fairlead.data.columns import Source
from fairlead.data.storage import bad
from fairlead.data.texts import as_objects, documents, pairs

_NAMES = """
_pydecimal argparse codecs collections/__init__ configparser datetime difflib email/message heapq http/cookiejar inspect
ipaddress json/__init__ logging/__init__ logging/handlers os pathlib pdb random re/__init__ shutil smtplib socketserver
ssl statistics subprocess threading tkinter/ttk turtle typing urllib/request uuid zipfile
"""
MODULES = tuple(_NAMES.split())
"""Modules of the standard library whose docstrings are long."""
_LEAST_REPEATED = 40
"""Characters from which on a paragraph that has occurred before is left out."""


def python_docs(*, kilobytes: int = 10_000) -> Source:
    """What the running Python says of itself: the reference as ``help`` shows it, docstrings, and its licence.

    One document for each topic of ``pydoc_data.topics``, for each of ``MODULES`` that the interpreter has, and for the
    licence. A version of the interpreter always gives the same texts. A paragraph of 40 characters or more that has
    occurred before is left out: topics contain one another, and a test split must not have been read in training.
    ``origin``: ``reference``, ``docstrings`` or ``licence``. ``kilobytes``: documents are taken, in this order, until
    there are so many characters; the default is more than all.
    """
    found: list[tuple[str, str, str]] = []
    for document in _without_repeats(_python_texts()):
        if sum(len(text) for _, _, text in found) >= 1000 * kilobytes:
            break
        if document[2]:
            found.append(document)
    if not found:
        hint = "name a text file, or a folder of them"
        raise bad("/data/uri", "builtin://python_docs: this Python comes without documentation and sources", hint)
    origins, names, contents = zip(*found, strict=True)
    return documents("builtin://python_docs", names, contents, columns={"origin": as_objects(origins)})


def _python_texts() -> Iterator[tuple[str, str, str]]:
    """Origin, name and text of each document."""
    library = Path(sysconfig.get_path("stdlib"))
    try:
        from pydoc_data import topics
    except ImportError:  # some distributions leave it out
        pass
    else:
        for name in sorted(topics.topics):
            yield "reference", f"topics/{name}", topics.topics[name]
    for module in MODULES:
        path = library / f"{module}.py"
        if path.is_file():
            yield "docstrings", module, "\n\n".join(_docstrings(path.read_bytes()))
    for path in sorted(library.glob("LICENSE*")):
        yield "licence", path.name, path.read_text(encoding="utf-8")


def _docstrings(code: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _without_repeats(texts: Iterator[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    seen: set[str] = set()
    for origin, name, text in texts:
        kept = []
        for paragraph in re.split(r"\n\s*\n", text):
            words = " ".join(paragraph.split())
            if words and not (len(words) >= _LEAST_REPEATED and words in seen):
                kept.append(paragraph)
            seen.add(words)
        yield origin, name, "\n\n".join(kept)


MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
WRITINGS = ("day first", "month first", "dots", "slashes", "short month", "number words", "Roman number", "thousands")
_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_BEFORE_TWENTY = tuple(_SMALL.split())
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ROMAN = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")]
_ROMAN += [(10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]


def rewriting(*, seed: int = 0, rows: int = 6000) -> Source:
    """Made-up dates and numbers in several writings, each with the one writing it should have.

    Each row has one of ``WRITINGS``, drawn evenly. Dates are uniform over 1900-01-01 to 2099-12-28 by year, month and
    day (1 to 28), and become ``1984-03-07``: ``7 March 1984`` (day first), ``March 7, 1984`` (month first),
    ``07.03.1984`` (dots, day first), ``3/7/1984`` (slashes, month first), ``7 Mar 84`` (short month; the century is
    the one that makes it 1950 to 2049, from which its years are drawn). Numbers are uniform over 1 to 999, those with
    a comma over 1 to 9,999, and become their digits: ``two hundred and seven``, ``CCVII``, ``2,007``.
    ``kind``: ``date`` or ``number``; ``writing``: as in ``WRITINGS``. Equal sources are one block.
    """
    random = np.random.RandomState(seed)  # legacy on purpose: its streams are frozen, so a seed names rows for ever
    places = random.randint(len(WRITINGS), size=rows)
    years, months, days = random.randint(1900, 2100, rows), random.randint(1, 13, rows), random.randint(1, 29, rows)
    numbers, small = random.randint(1, 10_000, rows), random.randint(1, 1000, rows)
    found = [
        _written(WRITINGS[place], *given)
        for place, *given in zip(places, years, months, days, numbers, small, strict=True)
    ]
    sources, answers = zip(*found, strict=True)
    writings = [WRITINGS[place] for place in places]
    kinds = ["number" if place >= WRITINGS.index("number words") else "date" for place in places]
    columns = {"kind": as_objects(kinds), "writing": as_objects(writings)}
    return pairs("builtin://rewriting", as_objects(sources), as_objects(answers), columns=columns)


def _written(writing: str, year: int, month: int, day: int, number: int, small: int) -> tuple[str, str]:
    """A source and its answer."""
    name, near = MONTHS[month - 1], 1950 + year % 100
    date = f"{year}-{month:02}-{day:02}"
    return {
        "day first": (f"{day} {name} {year}", date),
        "month first": (f"{name} {day}, {year}", date),
        "dots": (f"{day:02}.{month:02}.{year}", date),
        "slashes": (f"{month}/{day}/{year}", date),
        "short month": (f"{day} {name[:3]} {near % 100:02}", f"{near}-{month:02}-{day:02}"),
        "number words": (number_words(small), str(small)),
        "Roman number": (roman(small), str(small)),
        "thousands": (f"{number:,}", str(number)),
    }[writing]


def number_words(number: int) -> str:
    """A number from 1 to 9,999 in words, with an ``and`` before its tens and units: ``two thousand and seven``."""
    words = []
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            words.append(f"{_BEFORE_TWENTY[number // size]} {name}")
            number %= size
    if number:
        small = _BEFORE_TWENTY[number] if number < 20 else _TENS[number // 10 - 2]
        small += f"-{_BEFORE_TWENTY[number % 10]}" if number >= 20 and number % 10 else ""
        words.append(f"and {small}" if words else small)
    return " ".join(words)


def roman(number: int) -> str:
    """A number from 1 to 3,999 in Roman numerals."""
    letters = ""
    for value, sign in _ROMAN:
        letters += sign * (number // value)
        number %= value
    return letters
