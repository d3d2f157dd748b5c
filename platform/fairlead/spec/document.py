"""The base of every document, and how one is read: strictly, with a suggestion for what is misspelt."""

import difflib
import json
import typing
from collections.abc import Mapping
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fairlead.errors import BadSpec, Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 10_000


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
        return type(self).model_validate({**self.model_dump(), **changes})


D = TypeVar("D", bound=BaseModel)


def from_mapping(model: type[D], content: Any) -> D:
    """Validate ``content``. Raises ``BadSpec`` with one problem per offending field."""
    if not isinstance(content, Mapping):
        raise BadSpec(f"a document must be a mapping of keys to values, not {type(content).__name__}")
    _refuse_large(content)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = explain(error, model)
        raise BadSpec(_summary(problems), problems=problems) from error


def from_json(model: type[D], text: str | bytes) -> D:
    """Read one JSON document. Raises ``BadSpec``."""
    if len(text) > MAX_BYTES:
        raise BadSpec(f"the document has {len(text)} bytes; at most {MAX_BYTES} are accepted")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSpec(f"this is not JSON: {error}") from error
    return from_mapping(model, content)


def from_yaml(model: type[D], text: str) -> D:
    """Read one YAML document, aliases refused. Raises ``BadSpec``."""
    if len(text.encode()) > MAX_BYTES:
        raise BadSpec(f"the document is larger than {MAX_BYTES} bytes")
    return from_mapping(model, load_yaml(text))


def load_yaml(text: str) -> Any:
    """Parse YAML into plain values. Aliases are refused: a few hundred bytes of them can fill a memory."""
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
                raise BadSpec(f"{line}YAML aliases (*{event.anchor}) are not accepted; write it out")
        return yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise BadSpec(f"this is not YAML: {error}") from error
    except RecursionError as error:
        raise BadSpec(f"the document is nested deeper than {MAX_DEPTH} levels") from error


def explain(error: ValidationError, model: type[BaseModel]) -> tuple[Problem, ...]:
    """Turn pydantic's errors into problems: a JSON pointer, a sentence, and the nearest valid key."""
    return tuple(_problem(model, detail) for detail in error.errors(include_url=False, include_context=True))


def _problem(model: type[BaseModel], detail: Any) -> Problem:
    location: tuple[str | int, ...] = detail["loc"]
    pointer = "".join(f"/{_escape(part)}" for part in location)
    if detail["type"] == "extra_forbidden":
        keys = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), keys, n=1, cutoff=0.5)
        valid = f"known here: {', '.join(keys)}" if keys else None
        hint = f"did you mean {near[0]!r}?" if near else valid
        return Problem(pointer=pointer, message=f"unknown key {str(location[-1])!r}", suggestion=hint)
    message = str(detail["msg"]).removeprefix("Value error, ")
    given = detail.get("input")
    if isinstance(given, (str, int, float, bool)) and detail["type"] != "value_error":
        message = f"{message} (given: {str(given)[:80]!r})"
    return Problem(pointer=pointer, message=message)


def _escape(part: str | int) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _keys_at(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that the document at ``path`` knows."""
    here: type[BaseModel] | None = model
    for part in path:
        if here is not None and isinstance(part, str) and part in here.model_fields:
            here = _model_in(here.model_fields[part].annotation)
    return list(here.model_fields) if here else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first document type inside ``annotation``, however it is wrapped."""
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    inner = (_model_in(argument) for argument in typing.get_args(annotation))
    return next((found for found in inner if found), None)


def _summary(problems: tuple[Problem, ...]) -> str:
    first = problems[0]
    hint = f"; {first.suggestion}" if first.suggestion else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{first.pointer or '/'}: {first.message}{hint}{more}"


def _refuse_large(content: Any) -> None:
    """Walk without recursion: the depth is what is being checked."""
    nodes, stack = 0, [(content, 1)]
    while stack:
        value, depth = stack.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            raise BadSpec(f"the document is nested deeper than {MAX_DEPTH} levels")
        if nodes > MAX_NODES:
            raise BadSpec(f"the document has more than {MAX_NODES} values")
        if isinstance(value, Mapping):
            stack.extend((inner, depth + 1) for inner in value.values())
        elif isinstance(value, list | tuple):
            stack.extend((inner, depth + 1) for inner in value)
