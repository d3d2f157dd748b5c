"""Energy in the report: what trackers say of their nodes, added up. One kWh is 3.6 million joules.

Each node has one tracker a worker group, in the rank that comes first there: several would each count the whole node.
What it says may be a reading of the machine's own counters or a model of its load; the report says which. All attempts
and worker groups count, those that came to nothing included: their electricity was used as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, TypeAdapter

from fairlead.spec import Document, EnergySpec

Part = Literal["cpu", "gpu", "ram"]


class PartEnergy(Document):
    """What one kind of hardware used."""

    kwh: float = Field(ge=0, allow_inf_nan=False)
    is_measured: bool
    """Read off counters of the hardware; else a model of its load."""
    how: str
    """The source in words."""


class NodeEnergy(Document):
    """What one tracker says of one node, for one worker group of one attempt."""

    node: str
    attempt: int = Field(ge=0)
    group: int = Field(ge=1)
    ranks: int = Field(ge=1)
    """Ranks of this experiment on the node."""
    duration_s: float = Field(ge=0, allow_inf_nan=False)
    scope: Literal["machine", "process"] = "machine"
    is_shared: bool = False
    """Whether others may use the node as well: with scope ``machine`` their share is in the figures."""
    is_final: bool = False
    """Whether training ended after these figures; else a little is missing at the end."""
    parts: dict[Part, PartEnergy] = Field(default_factory=dict)
    intensity_g_per_kwh: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    intensity_source: str = ""
    library: str = ""
    why_not: str | None = None
    """Why there are no figures."""

    @property
    def kwh(self) -> float:
        """Of all parts."""
        return sum(part.kwh for part in self.parts.values())


_NODES: TypeAdapter[tuple[NodeEnergy, ...]] = TypeAdapter(tuple[NodeEnergy, ...])


def energy_section(asked: EnergySpec, found: Any) -> dict[str, Any]:
    """The report's ``energy`` from a list of ``NodeEnergy``. Raises ``ValueError`` for what is none."""
    entries = _NODES.validate_python(found)
    if not entries:
        raise ValueError("no node said anything")
    silent = sorted({f"{entry.node}: {entry.why_not}" for entry in entries if entry.why_not})
    kwh = sum(entry.kwh for entry in entries)
    why_not = "; ".join(silent) or None
    intensity = _intensity(asked, entries)
    return {
        "why_not_measured": why_not,
        "metrics": {
            "energy_kwh": _value(None if why_not else kwh, why_not),
            "co2e_kg": _value(
                kwh * intensity["g_per_kwh"] / 1000 if intensity and not why_not else None,
                why_not or (None if intensity else _no_intensity(asked)),
            ),
        },
        "kwh_seen": kwh,
        "scope": "machine" if any(entry.scope == "machine" for entry in entries) else "process",
        "shared": any(entry.is_shared for entry in entries),
        "measured": all(part.is_measured for entry in entries for part in entry.parts.values()) and why_not is None,
        "parts": [_part(name, entries) for name in ("cpu", "gpu", "ram") if any(name in e.parts for e in entries)],
        "nodes": [_node(name, entries) for name in dict.fromkeys(entry.node for entry in entries)],
        "attempts": sorted({entry.attempt for entry in entries}),
        "unfinished": sum(not entry.is_final for entry in entries),
        "intensity": intensity,
        "library": next((entry.library for entry in entries if entry.library), None),
    }


def _value(value: float | None, reason: str | None) -> dict[str, Any]:
    return {"value": value, "lower95": None, "upper95": None, "reason": reason}


def _intensity(asked: EnergySpec, entries: Sequence[NodeEnergy]) -> dict[str, Any] | None:
    if asked.intensity_g_per_kwh is not None:
        return {"g_per_kwh": asked.intensity_g_per_kwh, "source": "the spec", "country": None}
    for entry in entries:
        if asked.country is not None and entry.intensity_g_per_kwh is not None:
            source = entry.intensity_source
            return {"g_per_kwh": entry.intensity_g_per_kwh, "source": source, "country": asked.country}
    return None


def _no_intensity(asked: EnergySpec) -> str:
    if asked.country is None:
        return "the spec states no intensity: give energy.country or energy.intensity_g_per_kwh"
    return f"no intensity is known for {asked.country}: give energy.intensity_g_per_kwh"


def _part(name: Part, entries: Sequence[NodeEnergy]) -> dict[str, Any]:
    found = [entry.parts[name] for entry in entries if name in entry.parts]
    return {
        "part": name,
        "kwh": sum(part.kwh for part in found),
        "measured": all(part.is_measured for part in found),
        "how": sorted({part.how for part in found}),
    }


def _node(name: str, entries: Sequence[NodeEnergy]) -> Mapping[str, Any]:
    there = [entry for entry in entries if entry.node == name]
    return {
        "node": name,
        "kwh": sum(entry.kwh for entry in there),
        "duration_s": sum(entry.duration_s for entry in there),
        "ranks": max(entry.ranks for entry in there),
        "attempts": sorted({entry.attempt for entry in there}),
        "shared": any(entry.is_shared for entry in there),
        "why_not_measured": next((entry.why_not for entry in there if entry.why_not), None),
    }
