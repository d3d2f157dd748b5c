"""Lock files of an environment: pip's format for requirements, of which only pins with hashes are accepted.

Lines are put together as pip puts them together; each requirement is read by ``packaging``. What a lock may say is
less than what pip would take: names, exact versions, markers, hashes, and the address of an index without secrets.
"""

import hashlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

MAX_LOCK_BYTES = 2**20
MAX_PINS = 2000
MAX_FLAWS = 20
ADVICE = "make it with `uv pip compile --generate-hashes` or `pip-compile --generate-hashes`"
_COMMENT = re.compile(r"(^|\s+)#.*$")
_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
"""Hashes that pip accepts in a lock, and how many hexadecimal digits each has."""
_INDEX_OPTIONS = ("-i", "--index-url", "--extra-index-url")
_EDITABLE = ("-e", "--editable")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """One requirement of a lock. ``line`` counts from 1."""

    line: int
    requirement: Requirement

    @property
    def name(self) -> str:
        """As indexes spell it: lower case, with hyphens."""
        return str(canonicalize_name(self.requirement.name))

    @property
    def version(self) -> str:
        """The only version that it accepts."""
        return next(iter(self.requirement.specifier)).version


@dataclass(frozen=True, kw_only=True, slots=True)
class Flaw:
    """What is wrong with one line; line 0 means the whole file."""

    line: int
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return where + self.message


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A lock as far as it could be read. It may be used only where ``flaws`` is empty."""

    sha256: str
    """Of its bytes, in hex."""
    pins: tuple[Pin, ...]
    flaws: tuple[Flaw, ...]


def read_lock(content: bytes) -> Lock:
    """Read a lock; what is wrong with it stands in ``flaws``, the first twenty by line. Raises nothing."""
    sha256 = hashlib.sha256(content).hexdigest()
    pins: list[Pin] = []
    flaws: list[Flaw] = []
    for found in _entries(content):
        if isinstance(found, Pin):
            pins.append(found)
        else:
            flaws.append(found)
    if not flaws and not pins:
        flaws.append(Flaw(line=0, message="it pins no package", suggestion=ADVICE))
    if len(pins) > MAX_PINS:
        flaws.append(Flaw(line=0, message=f"it pins {len(pins)} packages; at most {MAX_PINS} are accepted"))
    return Lock(sha256=sha256, pins=tuple(pins), flaws=tuple(flaws[:MAX_FLAWS]))


def _entries(content: bytes) -> Iterator[Pin | Flaw]:
    if len(content) > MAX_LOCK_BYTES:
        yield Flaw(line=0, message=f"it has {len(content)} bytes; at most {MAX_LOCK_BYTES} are accepted")
        return
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        yield Flaw(line=0, message="it is not UTF-8 text", suggestion=ADVICE)
        return
    for line, entry in _logical_lines(text):
        found = _read_entry(line, entry)
        if found is not None:
            yield found


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """What belongs together, without comments, and where it begins: backslashes join lines, and a comment ends that."""
    begun = 0
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        is_comment = _COMMENT.match(line) is not None
        begun = begun if parts else number
        parts.append(f" {line}" if is_comment else line.removesuffix("\\"))
        if is_comment or not line.endswith("\\"):
            yield from _without_comment(begun, parts)
            parts = []
    yield from _without_comment(begun, parts)


def _without_comment(line: int, parts: list[str]) -> Iterator[tuple[int, str]]:
    if entry := _COMMENT.sub("", "".join(parts)).strip():
        yield line, entry


def _read_entry(line: int, entry: str) -> Pin | Flaw | None:
    """A pin, what is wrong, or None for an option that is accepted."""
    if "${" in entry:
        return Flaw(line=line, message="it refers to an environment variable, so it pins nothing; write it out")
    head, options = _split_options(entry)
    try:
        words = shlex.split(options)
    except ValueError as error:
        return Flaw(line=line, message=f"its options cannot be read: {error}")
    if not head:
        return _option_flaw(line, words)
    return _read_pin(line, head, words)


def _split_options(entry: str) -> tuple[str, str]:
    """The requirement, and the options from the first word on that begins with a hyphen."""
    words = entry.split(" ")
    first = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    return " ".join(words[:first]).strip(), " ".join(words[first:])


def _option_flaw(line: int, words: list[str]) -> Flaw | None:
    name, has_value, value = words[0].partition("=")
    values = [value, *words[1:]] if has_value else words[1:]
    if name in _EDITABLE:
        return Flaw(line=line, message=f"{name} installs a directory, which no hash can pin", suggestion=_AS_CODE)
    if name not in _INDEX_OPTIONS:
        hint = "a lock holds pins; pip's options are set on the nodes (pip-compile --no-emit-options leaves them out)"
        return Flaw(line=line, message=f"the option {name} is not accepted", suggestion=hint)
    address = urlsplit(values[0] if len(values) == 1 else "")
    if "@" in address.netloc:
        hint = "leave them out: operators give them to pip on the nodes, by PIP_INDEX_URL or a netrc file"
        return Flaw(line=line, message=f"{name} carries credentials, which everybody could read", suggestion=hint)
    if address.scheme != "https" or not address.hostname:
        return Flaw(line=line, message=f"{name} takes an https:// address and nothing else")
    return None


_AS_CODE = "upload your own code with `code: .` instead"


def _read_pin(line: int, head: str, options: list[str]) -> Pin | Flaw:
    if head.startswith((".", "/", "file:")) or "/" in head.split(";")[0].split("@")[0]:
        return Flaw(line=line, message=f"{head[:80]!r} is a path, which no hash can pin", suggestion=_AS_CODE)
    try:
        requirement = Requirement(head)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        return Flaw(line=line, message=f"{head[:80]!r} is no requirement: {reason}", suggestion=ADVICE)
    if requirement.url is not None:
        hint = f"pin a released version: {requirement.name}==VERSION"
        return Flaw(line=line, message=f"{requirement.name} is named by an address", suggestion=hint)
    pins = list(requirement.specifier)
    if len(pins) != 1 or pins[0].operator != "==" or pins[0].version.endswith(".*"):
        given = str(requirement.specifier) or "no version"
        message = f"{requirement.name} is not pinned to one version with == (given: {given})"
        return Flaw(line=line, message=message, suggestion=ADVICE)
    return _hash_flaw(line, requirement.name, options) or Pin(line=line, requirement=requirement)


def _hash_flaw(line: int, name: str, options: list[str]) -> Flaw | None:
    hashes: list[str] = []
    words = iter(options)
    for word in words:
        option, has_value, value = word.partition("=")
        if option != "--hash":
            return Flaw(line=line, message=f"{name} has the option {option}; only --hash is accepted")
        hashes.append(value if has_value else next(words, ""))
    if not hashes:
        return Flaw(line=line, message=f"{name} has no --hash", suggestion=ADVICE)
    for given in hashes:
        algorithm, _, digits = given.partition(":")
        if len(digits) != _DIGITS.get(algorithm) or not re.fullmatch(r"[0-9a-fA-F]+", digits):
            message = f"{name} has a hash that is none: {given[:20]!r}"
            return Flaw(line=line, message=message, suggestion=f"known: {', '.join(_DIGITS)}")
    return None
