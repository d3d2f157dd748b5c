"""What the page says of attributions: how far each feature moves the model's answers, and for whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairlead.evaluation.drawing import (
    Key,
    Mark,
    Report,
    count,
    group_name,
    hidden_by,
    hidden_groups,
    listed_by,
    number,
    percent,
    round_end,
    short,
    signed,
)

MOST_FEATURES = 12
MOST_COLUMNS = 4
MOST_GROUPS = 60
_FEATURES = {"column": "Column", "part": "Part of the picture"}
_BASELINES = {"zero": "where all inputs are 0", "mean": "for the mean of the training rows"}
_MUCH = 0.01
"""Mean completeness error that is worth saying more of, as a share of the mean change of the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributionsPart:
    """How far each feature moves the answers."""

    why_not: str
    kind: str = ""
    """What features are."""
    texts: tuple[str, ...] = ()
    completeness: str = ""
    end: str = "1"
    rows: tuple[tuple[str, Mark, str], ...] = ()
    """Each feature: its name, its mean absolute attribution, and the mean with its sign."""
    num_more: int = 0
    columns: tuple[str, ...] = ()
    """The features that groups are shown for."""
    groups: tuple["AttributedByGroup", ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributedByGroup:
    """The same for one attribute."""

    title: str
    rows: tuple[tuple[str, str, tuple[Mark, ...]], ...]
    """Each group: name, rows, and the mean absolute attribution of each feature; none where it is hidden."""


def attributions_part(report: Report) -> AttributionsPart | None:
    """What to draw of the report's ``attributions``; None without it."""
    section = report.get("attributions")
    if section is None:
        return None
    if section["why_not_measured"]:
        return AttributionsPart(why_not=section["why_not_measured"])
    shown, compared = section["features"][:MOST_FEATURES], section["features"][:MOST_COLUMNS]
    groups = shown[0]["groups"]  # the same for all features
    hidden = {name: _hidden_levels(report, groups, name) for name in _attributes(groups)}
    seen = [at for at, one in enumerate(groups) if not one["by"] or _key(one) not in hidden[one["by"][0]]]
    end = round_end([_reach(one["groups"][at]) for one in shown for at in seen])
    few = report["settings"]["min_support"]
    return AttributionsPart(
        why_not="",
        kind=_FEATURES[section["kind"]],
        texts=tuple(filter(None, (_what_was_attributed(report, section), _share(report, section)))),
        completeness=_completeness(section["completeness"]),
        end=f"{end:g}",
        rows=tuple((short(one["name"]), *_attributed(one["groups"][0], end, few)) for one in shown),
        num_more=len(section["features"]) - len(shown),
        columns=tuple(short(one["name"]) for one in compared),
        groups=tuple(
            AttributedByGroup(
                title=f"By {short(name)}",
                rows=tuple(
                    _attributed_group([one["groups"][at] for one in compared], end, few, is_hidden=at not in seen)
                    for at, group in enumerate(groups)
                    if group["by"] == [name] and group["n"]
                )[:MOST_GROUPS],
            )
            for name in hidden
        ),
    )


def _what_was_attributed(report: Report, section: Mapping[str, Any]) -> str:
    answer = "log-odds" if len(report["classes"]) == 2 else "logit"
    of = "the predicted class" if section["target"] == "predicted" else short(report["positive_class"])
    n, n_split = count(section["n"]), count(section["n_split"])
    rows = f"all {n} rows" if n == n_split else f"{n} rows that were drawn from the {n_split}"
    parts = " A picture has three by three parts, and that of a part is the sum over its pixels and channels."
    return (
        f"How far each {_FEATURES[section['kind']].lower()} moves the model's answer, the {answer} of {of}, from what "
        f"it is {_BASELINES[section['baseline']]}: integrated gradients in {section['steps']} steps, for {rows} "
        f"of the test split.{parts if section['kind'] == 'part' else ''} Plus speaks for {of}, minus against. It says "
        "what this model uses, not what causes what."
    )


def _share(report: Report, section: Mapping[str, Any]) -> str:
    """A sentence; nothing of pictures no part of which was named."""
    entry, named = section["metrics"]["attribution_share"], listed_by(section["share_of"])
    if section["kind"] == "part" and not section["share_of"]:
        return ""
    if entry["value"] is None:
        return f"No share of sensitive or named columns is given: {entry['reason']}."
    bounds = f"{entry['lower95']:.1%} to {entry['upper95']:.1%}, each with {100 * report['confidence']:g} % certainty"
    return f"Of all absolute attribution {entry['value']:.1%} falls on {named} ({bounds})."


def _completeness(found: Mapping[str, float]) -> str:
    more = found["mean_error"] > _MUCH * found["mean_change"]
    return (
        "The attributions of a row should add up to the change of its answer. They miss it by "
        f"{found['largest_error']:.2g} at most and by {found['mean_error']:.2g} on average, where answers change by "
        f"{found['mean_change']:.3g} on average.{' That is much: more steps make it less.' if more else ''}"
    )


def _reach(group: Mapping[str, Any]) -> float | None:
    reach: float | None = group["interval"][1] if group["interval"] else group["mean_absolute"]
    return reach


def _attributed(group: Mapping[str, Any], end: float, few: int) -> tuple[Mark, str]:
    """The mean absolute attribution on a scale up to ``end``, and the mean with its sign."""
    value, (low, high) = group["mean_absolute"], group["interval"] or (None, None)
    mark = Mark(
        text=number(value),
        note="" if low is None else f"{number(low)} to {number(high)}",
        at=percent(value / end),
        low=None if low is None else percent(low / end),
        high=None if high is None else percent(high / end),
        is_low_support=group["n"] < few,
    )
    if group["mean_interval"] is None:
        return mark, signed(group["mean"])
    low, high = group["mean_interval"]
    return mark, f"{signed(group['mean'])} ({signed(low)} to {signed(high)})"


def _attributed_group(
    entries: Sequence[Mapping[str, Any]], end: float, few: int, *, is_hidden: bool
) -> tuple[str, str, tuple[Mark, ...]]:
    name = group_name(_key(entries[0]))
    if is_hidden:
        return name, "not shown", ()
    return name, count(entries[0]["n"]), tuple(_attributed(entry, end, few)[0] for entry in entries)


def _key(group: Mapping[str, Any]) -> Key:
    return tuple(group["key"].values())


def _attributes(groups: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(group["by"][0] for group in groups if group["by"]))


def _hidden_levels(report: Report, groups: Sequence[Mapping[str, Any]], attribute: str) -> frozenset[Key]:
    """Also of an attribute that no grouping compares."""
    found = [group for group in groups if group["by"] == [attribute] and group["n"]]
    return hidden_groups(found, min_display=report["settings"]["min_display"]) | hidden_by(report, (attribute,))
