"""The base of every document, and how one is read: strictly, with a suggestion for what is misspelt."""

import difflib
import itertools
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from fairlead.errors import BadSpec, Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_PROBLEMS = 100


class Document(BaseModel):
    """A frozen document, closed to unknown keys. Infinity and NaN are not numbers a spec may hold."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        ser_json_inf_nan="null",
    )

    def amended(self, **changes: Any) -> Self:
        """A validated copy with some fields replaced."""
        return type(self).model_validate({**self.model_dump(by_alias=False), **changes})


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
ParameterName = Annotated[str, StringConstraints(max_length=100, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
D = TypeVar("D", bound=BaseModel)
Path = tuple[str | int, ...]
_KEY_ITSELF = "[key]"  # pydantic's way to say that the key is wrong, not the value


def from_mapping(model: type[D], content: Any) -> D:
    """Validate ``content``. Raises ``BadSpec`` with one problem per offending field."""
    if not isinstance(content, Mapping):
        raise BadSpec(f"a document must be a mapping of keys to values, not {type(content).__name__}")
    if (flaw := unfit(content)) is not None:
        raise BadSpec(_summary((flaw,)), problems=(flaw,))
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = explain(error, model)
        raise BadSpec(_summary(problems), problems=problems) from error


def from_json(model: type[D], text: str | bytes) -> D:
    """Read one JSON document. Raises ``BadSpec``."""
    _refuse_long(text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSpec(f"this is not JSON: {error}") from error
    return from_mapping(model, content)


def from_yaml(model: type[D], text: str) -> D:
    """Read one YAML document, aliases refused. Raises ``BadSpec``."""
    _refuse_long(text)
    return from_mapping(model, load_yaml(text))


def load_yaml(text: str) -> Any:
    """Parse YAML into plain values. Raises ``BadSpec``.

    Aliases are refused: a few hundred bytes of them can fill a memory. So is depth, before anything is built.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            _refuse_event(event, depth)
        return yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError) as error:  # a date or a number may look right and be none
        raise BadSpec(f"this is not YAML: {error}") from error


def _refuse_event(event: yaml.Event, depth: int) -> None:
    line = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
    if isinstance(event, yaml.AliasEvent):
        raise BadSpec(f"{line}YAML aliases (*{event.anchor}) are not accepted; write it out")
    if depth > MAX_DEPTH:
        raise BadSpec(f"{line}the document is nested deeper than {MAX_DEPTH} levels")


def _refuse_long(text: str | bytes) -> None:
    size = len(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise BadSpec(f"the document has {size} bytes; at most {MAX_BYTES} are accepted")


def explain(error: ValidationError, model: type[BaseModel]) -> tuple[Problem, ...]:
    """Turn pydantic's errors into problems: a JSON pointer, a sentence, and the nearest valid key."""
    details = error.errors(include_url=False, include_context=True)[:MAX_PROBLEMS]
    found = dict.fromkeys(_problem(model, detail) for detail in details)
    outer = {prefix for problem in found for prefix in _prefixes(problem.pointer)}
    # Where a value may have several forms, the form that it nearly has says what is wrong inside; the others go.
    return tuple(problem for problem in found if problem.pointer not in outer)


def _prefixes(pointer: str) -> Iterable[str]:
    """The pointers of everything around a value, the document itself left out."""
    parts = pointer.split("/")[1:-1]
    return itertools.islice(itertools.accumulate(parts, lambda outer, part: f"{outer}/{part}", initial=""), 1, None)


def _problem(model: type[BaseModel], detail: Any) -> Problem:
    location: tuple[str | int, ...] = detail["loc"]
    if detail["type"] == "extra_forbidden":
        parts, here = _follow(model, location[:-1])
        return _unknown_key(parts, str(location[-1]), _keys_of(here))
    parts, _ = _follow(model, location)
    message = _in_our_words(str(detail["msg"]).removeprefix("Value error, "))
    given = detail.get("input")
    if isinstance(given, (str, int, float, bool)) and detail["type"] != "value_error":
        message = f"{message} (given: {str(given)[:80]!r})"
    return Problem(pointer=pointer_to(parts), message=message)


def _in_our_words(message: str) -> str:
    """Who writes YAML or JSON knows lists; that we keep them as tuples is our affair."""
    return message.replace("a valid tuple", "a list").replace("a valid list", "a list").replace("Tuple ", "List ")


def _unknown_key(parts: Path, key: str, keys: list[str]) -> Problem:
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    valid = f"known here: {', '.join(keys)}" if keys else None
    hint = f"did you mean {near[0]!r}?" if near else valid
    return Problem(pointer=pointer_to((*parts, key)), message=f"unknown key {key[:80]!r}", suggestion=hint)


def pointer_to(parts: Path) -> str:
    """The JSON pointer (RFC 6901) of a value."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def _follow(model: type[BaseModel], location: Path) -> tuple[Path, Any]:
    """The parts of pydantic's ``location`` that are keys of the document, and the type they lead to.

    The others name a member of a union, or say that a key itself is meant; no reader of a document knows them.
    """
    parts: list[str | int] = []
    here: Any = model
    for part in location:
        steps = (_step(option, part) for option in _options(here))
        inner = next((step for step in steps if step is not None), None)
        if inner is not None and part != _KEY_ITSELF:
            parts.append(part)
            here = inner
    return tuple(parts), here


def _options(annotation: Any) -> list[Any]:
    """The types a value may have, without the wrapping."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [option for member in typing.get_args(annotation) for option in _options(member)]
    return [annotation]


def _step(annotation: Any, part: str | int) -> Any:
    """The type of ``annotation``'s value under ``part``, or None where it has none."""
    if annotation is Any:
        return Any
    if isinstance(part, int):
        return _item_type(annotation, part)
    if typing.get_origin(annotation) is dict:
        return typing.get_args(annotation)[1]
    if _is_document(annotation):
        named = (field for name, field in annotation.model_fields.items() if part in (name, field.alias))
        return next((field.annotation for field in named), None)
    return None


def _item_type(annotation: Any, position: int) -> Any:
    if typing.get_origin(annotation) not in (tuple, list):
        return None
    members = [member for member in typing.get_args(annotation) if member is not ...]
    return members[min(position, len(members) - 1)]


def _is_document(annotation: Any) -> bool:
    return isinstance(annotation, type) and typing.get_origin(annotation) is None and issubclass(annotation, BaseModel)


def _keys_of(annotation: Any) -> list[str]:
    documents = [option for option in _options(annotation) if _is_document(option)]
    return [field.alias or name for document in documents[:1] for name, field in document.model_fields.items()]


def _summary(problems: tuple[Problem, ...]) -> str:
    first = problems[0]
    hint = f"; {first.suggestion}" if first.suggestion else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{first.pointer or '/'}: {first.message}{hint}{more}"


def unfit(content: Any) -> Problem | None:
    """The first thing in ``content`` that no document may hold. Walks without recursion: depth is being checked."""
    nodes = 0
    stack: list[tuple[Path, Any]] = [((), content)]
    while stack:
        parts, value = stack.pop()
        nodes += 1
        if len(parts) >= MAX_DEPTH:
            return Problem(pointer="", message=f"the document is nested deeper than {MAX_DEPTH} levels")
        if nodes > MAX_NODES:
            return Problem(pointer="", message=f"the document has more than {MAX_NODES} values")
        if message := _why_unfit(value):
            return Problem(pointer=pointer_to(parts), message=message)
        stack.extend((((*parts, key), inner) for key, inner in _inside(value)))
    return None


def _inside(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple) else ()


def _why_unfit(value: Any) -> str | None:
    """Why JSON, or a database, could not hold this very value; None if both can."""
    if isinstance(value, Mapping):
        odd = next((key for key in value if not isinstance(key, str) or _is_unstorable(key)), None)
        return None if odd is None else f"a key must be plain text, not {str(odd)!r:.80}; write it in quotes"
    if isinstance(value, str):
        return "a text may not hold NUL or half a surrogate pair" if _is_unstorable(value) else None
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a number that a document may hold"
    if value is None or isinstance(value, bool | int | float | list | tuple | BaseModel):
        return None
    return f"a {type(value).__name__} has no place in JSON; write it in quotes"


def _is_unstorable(text: str) -> bool:
    return "\0" in text or (not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text))
