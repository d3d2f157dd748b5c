"""Filters of lists: ``field=op:value`` with allow-listed fields and operators; repeated ones must all hold."""

from collections.abc import Mapping

from starlette.datastructures import QueryParams

from fairlead.errors import BadInput, Problem

_PAGING = frozenset({"cursor", "limit"})


def read_filters(query: QueryParams, allowed: Mapping[str, frozenset[str] | None]) -> dict[str, tuple[str, ...]]:
    """The values wanted of each field; ``allowed`` maps fields to their values (None: any text).

    A field that no value can satisfy maps to an empty tuple. Raises ``BadInput``.
    """
    wanted: dict[str, tuple[str, ...]] = {}
    for name, text in query.multi_items():
        if name in _PAGING:
            continue
        if name not in allowed:
            raise _bad(name, "this list has no such filter", f"known: {', '.join(sorted(allowed))}, limit, cursor")
        values = _values(name, text)
        if (known := allowed[name]) is not None and (strangers := set(values) - known):
            raise _bad(name, f"no {name} is called {sorted(strangers)[0]!r}", f"known: {', '.join(sorted(known))}")
        before = wanted.get(name)
        wanted[name] = values if before is None else tuple(value for value in values if value in before)
    return wanted


def among(
    wanted: Mapping[str, tuple[str, ...]], name: str, allowed: tuple[str, ...] | None
) -> dict[str, tuple[str, ...]]:
    """``wanted``, but of ``name`` only what is ``allowed`` (None: all), whether it was asked for or not."""
    if allowed is None:
        return dict(wanted)
    return {**wanted, name: tuple(value for value in wanted.get(name, allowed) if value in allowed)}


def _values(name: str, text: str) -> tuple[str, ...]:
    operator, separator, value = text.partition(":")
    if separator and operator == "eq":
        return (value,)
    if separator and operator == "in":
        return tuple(dict.fromkeys(value.split(",")))
    raise _bad(name, "a filter is written as operator:value", f"{name}=eq:{text} or {name}=in:a,b")


def _bad(name: str, message: str, suggestion: str) -> BadInput:
    problem = Problem(pointer=f"/query/{name}", message=message, suggestion=suggestion)
    return BadInput(f"{name}: {message}; {suggestion}", problems=(problem,))
