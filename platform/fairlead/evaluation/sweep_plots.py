"""The plots of a sweep as SVG: history, trade-offs with interval boxes, parallel coordinates, importance, slices.

Each is drawn from the report alone, for the page and as a file of its own. A trial's shape says what became of it, not
its colour alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from fairlead.evaluation.drawing import count, figure, short
from fairlead.evaluation.layout import style
from fairlead.evaluation.sweep_axes import Axis, axis_of_dimension, axis_of_trials, axis_of_values, shown
from fairlead.evaluation.sweep_report import Report, bounded_by, search_of, spread
from fairlead.spec.search import SearchSpec

MOST_SLICES = 12
MOST_PARALLEL = 9
"""Parameters with an axis among the parallel ones."""
MOST_WAYS = 150
"""Lines across the parallel axes."""
MOST_NAMED = 300
"""Marks that tell their trial when pointed at; of more, only the best do."""
MOST_BARS = 20
WIDTH = 760
LETTER = 6.8
"""Width of a letter, about: fonts differ."""
Entry = Mapping[str, Any]

_WORDS = {
    "best": "best",
    "nearest": "nearest to keeping all constraints",
    "kept": "ran to the end",
    "broken": "breaks a constraint",
    "pruned": "stopped early",
    "failed": "failed, or no value",
}
_SHAPES: dict[str, Callable[[float, float, float], str]] = {
    "best": lambda x, y, r: f"M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7-7z",
    "nearest": lambda x, y, r: f"M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7-7z",
    "kept": lambda x, y, r: f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0-{2 * r} 0z",
    "broken": lambda x, y, r: f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h-{2 * r}z",
    "pruned": lambda x, y, r: f"M{x - r:.1f} {y - r:.1f}h{2 * r}l-{r} {2 * r}z",
    "failed": lambda x, y, r: f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m0-{2 * r}l-{2 * r} {2 * r}",
}
"""In the order of the legend; the last are drawn first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One picture."""

    name: str
    """Of its file, without the ending."""
    title: str
    notes: tuple[str, ...]
    """What a reader must know, such as what was left out."""
    width: int
    height: int
    body: str
    """What stands inside the ``svg`` element."""
    is_small: bool = False

    @property
    def text(self) -> str:
        """What it shows, for those who do not see it."""
        return ". ".join((self.title, *self.notes))

    @property
    def caption(self) -> str:
        """Its notes as sentences."""
        return " ".join(f"{note[:1].upper()}{note[1:]}." for note in self.notes)

    def standalone(self) -> bytes:
        """A file of its own, light or dark as its viewer is."""
        root = Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 -24 {self.width} {self.height + 24}")
        root.attrib |= {"class": "plot", "width": str(self.width), "height": str(self.height + 24), "role": "img"}
        _say(root, self.title)
        SubElement(root, "desc").text = printable(self.text)
        SubElement(root, "style").text = style("colours.css", "plots.css")
        SubElement(root, "rect", {"class": "paper", "y": "-24", "width": "100%", "height": "100%"})
        _text(root, "", x=12, y=-6, kind="head").text = printable(self.title)
        head = ElementTree.tostring(root, encoding="unicode").removesuffix("</svg>")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{self.body}</svg>\n'.encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The area of a picture in which values lie."""

    left: float
    top: float
    width: float
    height: float
    x: Axis
    y: Axis

    def place(self, x: Any, y: Any) -> tuple[float, float] | None:
        """A point in the picture; None where one of both has no place."""
        across, up = self.x.at(x), self.y.at(y)
        return None if across is None or up is None else (self.across(across), self.up(up))

    def across(self, share: float) -> float:
        """From a share of the width to units of the picture."""
        return self.left + share * self.width

    def up(self, share: float) -> float:
        """From a share of the height."""
        return self.top + (1 - share) * self.height


def plots_of(report: Report) -> tuple[Plot, ...]:
    """All plots for which there is something to draw, in the order of the page."""
    search = search_of(report)
    metric = search.objectives[0].metric
    if all(value is None for value in _values(report["trials"], metric)):
        return ()
    found = [history_plot(report, search, position) for position in range(len(search.objectives))]
    found += tradeoff_plots(report, search)
    found += [parallel_plot(report, search)]
    found += [importance_plot(report)] if report["importance"] else []
    return (*found, *slice_plots(report, search))


def kind_of(report: Report, trial: Entry) -> str:
    """What became of a trial, as its mark shows it."""
    if trial["no"] in _best_numbers(report):
        return "best"
    if report["nearest"] is not None and trial["no"] == report["nearest"]["no"]:
        return "nearest"
    if trial["state"] == "succeeded":
        return "kept" if trial["keeps"] else "broken"
    return "pruned" if trial["state"] == "pruned" else "failed"


# ---- the plots ------------------------------------------------------------------------------------------------------


def history_plot(report: Report, search: SearchSpec, position: int) -> Plot:
    """Each trial's value by its number, and the best so far."""
    objective, told = search.objectives[position], report["objectives"][position]
    metric, trials = objective.metric, report["trials"]
    improvements = told["history"]["improvements"]
    y = axis_of_values(
        metric,
        _values(trials, metric),
        is_maximized=objective.is_maximized,
        always=[step[1] for step in improvements[-1:]],
    )
    last = max(trial["no"] for trial in trials)
    x = axis_of_trials(last)
    frame = Frame(left=76, top=12, width=WIDTH - 92, height=230, x=x, y=y)
    strip = frame.up(0) + 11
    marks = []
    for trial in trials:
        kind, at = kind_of(report, trial), frame.place(trial["no"], trial["values"][metric])
        if at is None or trial["state"] in ("failed", "running"):
            kind, at = "failed", (frame.across(x.at(trial["no"]) or 0.0), strip)
        marks.append((kind, at, trial))
    body, room = Element("g"), 20 if any(kind == "failed" for kind, _, _ in marks) else 0
    _frame(body, frame, room=room)
    if room:
        _text(body, "failed", x=frame.left - 6, y=strip + 3.5, kind="tick", anchor="end")
    if improvements:
        _steps(body, frame, improvements, last)
    _marks(body, marks, metric)
    line = [("best so far", "so-far")] if improvements else []
    height = _legend(body, marks, report, y=int(frame.up(0)) + room + 54, lines=line)
    better = "higher" if objective.is_maximized else "lower"
    notes = (f"{better} is better", *_notes(report, y))
    title = f"{metric} by trial"
    return Plot(
        name=_name("history", position), title=title, notes=notes, width=WIDTH, height=height, body=_written(body)
    )


def tradeoff_plots(report: Report, search: SearchSpec) -> list[Plot]:
    """Objectives against each other; of a single one, against what the constraints look at."""
    metrics = [one.metric for one in search.objectives]
    if len(metrics) > 1:
        pairs = list(combinations(metrics, 2))
    else:
        others = dict.fromkeys(_value_of(report, metric) for metric, _ in search.requirements)
        pairs = [(other, metrics[0]) for other in [*others][:4] if other != metrics[0]]
    return [_tradeoff(report, search, number, *pair) for number, pair in enumerate(pairs)]


def _tradeoff(report: Report, search: SearchSpec, number: int, across: str, up: str) -> Plot:
    trials = [trial for trial in report["trials"] if trial["state"] == "succeeded"]
    best = _bests(report)
    axes = [_axis_of_metric(search, trials, best, metric) for metric in (across, up)]
    frame = Frame(left=76, top=12, width=WIDTH - 92, height=330, x=axes[0], y=axes[1])
    body = Element("g")
    _frame(body, frame)
    limits = _limits(body, frame, search, across, up)
    has_boxes = [_box(body, frame, trial, across, up) for trial in best]
    if len(search.objectives) == 2:
        _front_line(body, frame, best, across, up)
    placed = ((kind_of(report, one), frame.place(one["values"][across], one["values"][up]), one) for one in trials)
    marks = [(kind, at, one) for kind, at, one in placed if at is not None]
    _marks(body, marks, across, up)
    _numbers(body, frame, best, across, up)
    lines = [("within the bounds", "box")] if any(has_boxes) else []
    lines += limits
    height = _legend(body, marks, report, y=int(frame.up(0)) + 58, lines=lines)
    notes = [_direction(search, metric) for metric in (across, up)]
    notes = [*filter(None, notes), *(note for axis in axes for note in _beyond(axis))]
    if len(search.objectives) > 2:
        notes.append("the best are those on the front of all objectives, so some look beaten here")
    if len(trials) < (total := report["counts"]["succeeded"]):
        notes.append(f"{count(len(trials))} of the {count(total)} trials that ran to the end are drawn")
    if len(best) < report["num_on_front"]:
        notes.append(f"{len(best)} of the {report['num_on_front']} on the front are drawn")
    is_front = len(search.objectives) > 1
    title = f"{'Pareto front: ' if is_front else ''}{up} against {across}"
    name = _name("pareto" if is_front else "tradeoff", number)
    return Plot(name=name, title=title, notes=tuple(notes), width=WIDTH, height=height, body=_written(body))


def parallel_plot(report: Report, search: SearchSpec) -> Plot:
    """Each trial as a line through its parameters to its objectives."""
    names = _by_importance(report, search)[:MOST_PARALLEL]
    trials = [one for one in report["trials"] if one["state"] in ("succeeded", "pruned")]
    axes = [axis_of_dimension(name, search.space[name]) for name in names]
    axes += [
        axis_of_values(one.metric, _values(trials, one.metric), is_maximized=one.is_maximized)
        for one in search.objectives[:2]
    ]
    body, top, height = Element("g"), 44.0, 250.0
    xs = [70 + number * (WIDTH - 150) / max(1, len(axes) - 1) for number in range(len(axes))]
    has_gap = any(search.space[name].when for name in names)
    gap = top + height + 22
    drawn = _ways(report, trials)
    for trial, kind in drawn:
        values = [trial["params"].get(name, _ABSENT) for name in names]
        values += [trial["values"][one.metric] for one in search.objectives[:2]]
        ys = [
            gap if value is _ABSENT else _height(axis, value, top, height)
            for axis, value in zip(axes, values, strict=True)
        ]
        if None not in ys:
            points = "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))
            way = SubElement(
                body, "path", {"class": f"way {kind}{' many' if len(drawn) > 100 else ''}", "d": f"M{points}"}
            )
            if len(drawn) <= MOST_NAMED or kind == "first":
                _say(way, _told(trial, [one.metric for one in search.objectives]))
    room = (WIDTH - 150) / max(1, len(axes) - 1)
    for number, (x, axis) in enumerate(zip(xs, axes, strict=True)):
        _parallel_axis(body, axis, x, top, height, room=room, raised=number % 2 == 1 if len(axes) > 5 else None)
    if has_gap:
        _text(body, "not used", x=xs[0] - 8, y=gap + 3.5, kind="tick", anchor="end")
    first = "on the Pareto front" if report["front"] else "nearest" if report["nearest"] else "best"
    lines = [(first, "way first"), ("next best", "way next"), ("others", "way")]
    kinds = {kind for _, kind in drawn}
    shown = [line for line in lines if line[1].removeprefix("way").strip() in kinds]
    bottom = _legend(body, [], report, y=int(gap if has_gap else top + height) + 26, lines=shown)
    notes = (
        [f"{count(len(drawn))} of {count(report['num_trials'])} trials are drawn"]
        if len(drawn) < report["num_trials"]
        else []
    )
    if len(names) < len(search.space):
        notes.append(f"{len(names)} of {len(search.space)} parameters have an axis")
    if any(axis.is_log for axis in axes):
        notes.append("axes that span powers of ten are logarithmic, as the search was")
    title = "Parameters and results"
    return Plot(name="parallel", title=title, notes=tuple(notes), width=WIDTH, height=bottom, body=_written(body))


def importance_plot(report: Report) -> Plot:
    """How much of the first objective's spread each parameter explains."""
    rows = report["importance"][:MOST_BARS]
    label = min(240.0, max(len(_clipped(row["parameter"], 36)) for row in rows) * (LETTER + 0.6) + 14)
    body, reach = Element("g"), max(1e-12, *(row["share"] for row in rows))
    for number, row in enumerate(rows):
        y = 10 + 26 * number
        width = max(0.0, row["share"] / reach) * (WIDTH - label - 80)
        _text(body, _clipped(row["parameter"], 36), x=label - 8, y=y + 12, kind="name", anchor="end")
        SubElement(body, "rect", {"class": "bar", "x": _n(label), "y": str(y), "width": _n(width), "height": "16"})
        _text(body, f"{100 * row['share']:.0f} %", x=label + width + 6, y=y + 12, kind="name")
    notes = [f"the {MOST_BARS} largest of {len(report['importance'])}"] if len(report["importance"]) > MOST_BARS else []
    title = f"Share of the spread of {report['objectives'][0]['metric']} that each parameter explains"
    height = 20 + 26 * len(rows)
    return Plot(name="importance", title=title, notes=tuple(notes), width=WIDTH, height=height, body=_written(body))


def slice_plots(report: Report, search: SearchSpec) -> list[Plot]:
    """The first objective by each parameter."""
    objective = search.objectives[0]
    trials = [one for one in report["trials"] if one["state"] in ("succeeded", "pruned")]
    y = axis_of_values(objective.metric, _values(trials, objective.metric), is_maximized=objective.is_maximized)
    return [_slice(report, search, name, y, trials) for name in _by_importance(report, search)[:MOST_SLICES]]


def _slice(report: Report, search: SearchSpec, name: str, y: Axis, trials: Sequence[Entry]) -> Plot:
    x = axis_of_dimension(name, search.space[name])
    frame = Frame(left=58, top=8, width=240, height=150, x=x, y=y)
    body = Element("g")
    _frame(body, frame)
    metric = y.label
    placed = (
        (kind_of(report, one), frame.place(one["params"][name], one["values"][metric]), one)
        for one in trials
        if name in one["params"]
    )
    marks = [(kind, at, one) for kind, at, one in placed if at is not None]
    _marks(body, marks, metric)
    absent = sum(name not in one["params"] for one in trials)
    notes = (f"not used by {absent} of {len(trials)}",) if absent else ()
    return Plot(
        name=f"slice_{name}",
        title=f"{metric} by {name}",
        notes=notes,
        width=310,
        height=206,
        body=_written(body),
        is_small=True,
    )


# ---- what they are made of ------------------------------------------------------------------------------------------

_ABSENT = object()
_SIDES = {".upper95": "the upper bound", ".lower95": "the lower bound"}
Marked = tuple[str, tuple[float, float], Entry]


def _best_numbers(report: Report) -> frozenset[int]:
    return frozenset(one["no"] for one in _bests(report))


def _bests(report: Report) -> list[Entry]:
    """The best trial, or those on the front; none where no trial keeps all constraints."""
    return [report["best"]] if report["best"] is not None else list(report["front"])


def _values(trials: Iterable[Entry], metric: str) -> list[float | None]:
    return [one["values"][metric] for one in trials]


def _by_importance(report: Report, search: SearchSpec) -> list[str]:
    """The most important first; of those nobody knows, as the spec has them."""
    known = [one["parameter"] for one in report["importance"] if one["parameter"] in search.space]
    return [*known, *(name for name in search.space if name not in known)]


def _axis_of_metric(search: SearchSpec, trials: Sequence[Entry], best: Sequence[Entry], metric: str) -> Axis:
    is_maximized = next((one.is_maximized for one in search.objectives if one.metric == metric), None)
    must = [bound for one in best for bound in one["bounds"].get(metric, ())]
    must += [value for one in best if (value := one["values"][metric]) is not None]
    must += [float(required.limit) for name, required in search.requirements if _is_about(name, metric)]
    return axis_of_values(metric, _values(trials, metric), is_maximized=is_maximized, always=must)


def _value_of(report: Report, metric: str) -> str:
    """What a bound bounds, where it was reported; else the metric itself."""
    return bounded_by(metric) if bounded_by(metric) in report["metrics"] else metric


def _direction(search: SearchSpec, metric: str) -> str:
    one = next((one for one in search.objectives if one.metric == metric), None)
    return "" if one is None else f"{'higher' if one.is_maximized else 'lower'} {metric} is better"


def _notes(report: Report, axis: Axis) -> tuple[str, ...]:
    listed, total = len(report["trials"]), report["num_trials"]
    thinned = (f"{count(listed)} of {count(total)} trials are drawn, the best among them",)
    return (*_beyond(axis), *(thinned if listed < total else ()))


def _beyond(axis: Axis) -> tuple[str, ...]:
    if not axis.num_beyond:
        return ()
    verb = "lies" if axis.num_beyond == 1 else "lie"
    return (f"{axis.num_beyond} {verb} beyond the scale of {axis.label}, drawn at its edge",)


def _ways(report: Report, trials: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Lines to draw, the best last and so on top, each with its class."""
    first = _best_numbers(report)
    if not first and report["nearest"] is not None:
        first = frozenset({report["nearest"]["no"]})
    following = [one["no"] for one in report["ranking"] if one["no"] not in first and one["keeps"]][:10]
    best = [one for one in trials if one["no"] in first]
    chosen = [one for one in trials if one["no"] in following]
    rest = [one for one in trials if one["no"] not in first and one["no"] not in following]
    few = spread(best, MOST_WAYS // 4)
    rest = spread(rest, MOST_WAYS - len(few) - len(chosen))
    kinds = (("", rest), ("next", chosen), ("first", few))
    return [(one, kind) for kind, members in kinds for one in members]


def _height(axis: Axis, value: Any, top: float, height: float) -> float | None:
    share = axis.at(value)
    return None if share is None else top + (1 - share) * height


def _parallel_axis(
    body: Element, axis: Axis, x: float, top: float, height: float, *, room: float, raised: bool | None
) -> None:
    _line(body, "axis", x, top, x, top + height)
    edges = 2 * min(x, WIDTH - x) / (LETTER + 2)  # bold, and the picture ends there
    wide = max(6, int(min(edges, (1 if raised is None else 2) * room / (LETTER + 1) - 1)))
    label = _text(body, _clipped(axis.label, wide), x=x, y=top - (28 if raised else 12), kind="name", anchor="middle")
    if len(axis.label) > wide:
        _say(label, axis.label)
    for share, text in axis.ticks:
        y = top + (1 - share) * height
        _line(body, "axis", x - 3, y, x + 3, y)
        _text(body, _clipped(text, max(5, int(room / LETTER) - 2)), x=x + 6, y=y + 3.5, kind="tick over")


def _frame(body: Element, frame: Frame, *, room: float = 0.0) -> None:
    """Frame, grid, ticks and labels; ``room``: of a strip between the frame and what is written below."""
    right, bottom = frame.left + frame.width, frame.top + frame.height + room
    for share, text in frame.y.ticks:
        _line(body, "grid", frame.left, frame.up(share), right, frame.up(share))
        _text(body, _clipped(text, 11), x=frame.left - 6, y=frame.up(share) + 3.5, kind="tick", anchor="end")
    letters = max(6, int(frame.width / max(1, len(frame.x.ticks)) / LETTER))
    for share, text in frame.x.ticks:
        _line(body, "grid", frame.across(share), frame.top, frame.across(share), bottom)
        _text(body, _clipped(text, letters), x=frame.across(share), y=bottom + 14, kind="tick", anchor="middle")
    heights = [frame.height, room] if room else [frame.height]
    for top, height in zip((frame.top, frame.up(0)), heights, strict=False):
        size = {"x": _n(frame.left), "y": _n(top), "width": _n(frame.width), "height": _n(height)}
        SubElement(body, "rect", {"class": "frame", **size})
    middle, label = frame.left + frame.width / 2, _clipped(frame.x.label, int(frame.width / LETTER))
    _text(body, label, x=middle, y=bottom + 30, kind="label", anchor="middle")
    middle, label = frame.top + frame.height / 2, _clipped(frame.y.label, int(frame.height / LETTER))
    turned = _text(body, label, x=0, y=0, kind="label", anchor="middle")
    turned.set("transform", f"translate(14 {_n(middle)}) rotate(-90)")


def _steps(body: Element, frame: Frame, improvements: Sequence[Sequence[float]], last: int) -> None:
    """The best so far: level until the next improvement."""
    path = ""
    for number, value in improvements:
        at = frame.place(number, value)
        if at is not None:
            path += f"M{at[0]:.1f} {at[1]:.1f}" if not path else f"H{at[0]:.1f}V{at[1]:.1f}"
    if path:
        SubElement(body, "path", {"class": "so-far", "d": f"{path}H{frame.across(frame.x.at(last) or 1.0):.1f}"})


def _is_about(name: str, metric: str) -> bool:
    """Whether a constraint's metric is this one or a bound of it."""
    return name in (metric, f"{metric}.lower95", f"{metric}.upper95")


def _limits(body: Element, frame: Frame, search: SearchSpec, across: str, up: str) -> list[tuple[str, str]]:
    """Limits of constraints, and the side beyond them shaded; returns what the legend says of them."""
    found: dict[tuple[str, str], None] = {}
    right, bottom = frame.left + frame.width, frame.top + frame.height
    for metric, required in search.requirements:
        limit = float(required.limit)
        side = next((words for end, words in _SIDES.items() if metric.endswith(end)), "")
        of_bound = bool(side) and metric not in (across, up)
        words = (f"limit of {side}", "limit") if of_bound else ("limit of a constraint; shaded: beyond it", "limit")
        if _is_about(metric, across) and (share := frame.x.at(limit)) is not None:
            x = frame.across(share)
            start, end = (x, right) if required.is_upper else (frame.left, x)
            size = {"x": _n(start), "y": _n(frame.top), "width": _n(end - start), "height": _n(frame.height)}
            if not of_bound:
                SubElement(body, "rect", {"class": "beyond", **size})
            _line(body, "limit", x, frame.top, x, bottom)
            found[words] = None
        if _is_about(metric, up) and (share := frame.y.at(limit)) is not None:
            y = frame.up(share)
            start, end = (frame.top, y) if required.is_upper else (y, bottom)
            size = {"x": _n(frame.left), "y": _n(start), "width": _n(frame.width), "height": _n(end - start)}
            if not of_bound:
                SubElement(body, "rect", {"class": "beyond", **size})
            _line(body, "limit", frame.left, y, right, y)
            found[words] = None
    return list(found)


def _box(body: Element, frame: Frame, trial: Entry, across: str, up: str) -> bool:
    """Bounds of both values as a box; of one of them, as a line."""
    sides = []
    for axis, metric in ((frame.x, across), (frame.y, up)):
        value = trial["values"][metric]
        low, high = (axis.at(end) for end in trial["bounds"].get(metric, (value, value)))
        if low is None or high is None:
            return False
        sides.append((low, high))
    if not any(metric in trial["bounds"] for metric in (across, up)):
        return False
    (left, right), (low, high) = sides
    SubElement(
        body,
        "rect",
        {
            "class": "box",
            "x": _n(frame.across(left)),
            "y": _n(frame.up(high)),
            "width": _n(max(1.0, (right - left) * frame.width)),
            "height": _n(max(1.0, (high - low) * frame.height)),
        },
    )
    return True


def _front_line(body: Element, frame: Frame, best: Sequence[Entry], across: str, up: str) -> None:
    placed = (frame.place(one["values"][across], one["values"][up]) for one in best)
    points = sorted(at for at in placed if at is not None)
    if len(points) > 1:
        SubElement(body, "path", {"class": "front", "d": "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)})


def _numbers(body: Element, frame: Frame, best: Sequence[Entry], across: str, up: str) -> None:
    """Numbers of trials beside the best ones, as far as there is room."""
    placed = ((one, frame.place(one["values"][across], one["values"][up])) for one in best)
    there = [(one, at) for one, at in placed if at is not None]
    for number, (one, (x, y)) in enumerate(there):
        is_left = x > frame.left + frame.width - 44
        start = x - 42 if is_left else x + 8
        near = (at for other, (_, at) in enumerate(there) if other != number)
        if not any(start - 8 < left < start + 42 and y - 24 < top < y + 4 for left, top in near):
            side, anchor = (x - 10, "end") if is_left else (x + 10, "start")
            _text(body, str(one["no"]), x=side, y=y - 6, kind="tick over", anchor=anchor)


def _marks(body: Element, marks: Sequence[Marked], *metrics: str) -> None:
    """One mark a trial; many of a kind become one shape, which makes the page small."""
    for kind, shape in reversed(_SHAPES.items()):
        members = [(at, trial) for one, at, trial in marks if one == kind]
        if not members:
            continue
        if len(marks) > MOST_NAMED and kind not in ("best", "nearest"):
            SubElement(body, "path", {"class": f"mark {kind} many", "d": "".join(shape(*at, 2) for at, _ in members)})
            continue
        for at, trial in members:
            mark = SubElement(body, "path", {"class": f"mark {kind}", "d": shape(*at, 3)})
            _say(mark, _told(trial, metrics))


def _told(trial: Entry, metrics: Sequence[str]) -> str:
    """What a mark says when pointed at."""
    values = [(metric, trial["values"][metric]) for metric in metrics]
    told = ", ".join(f"{metric} {figure(value)}" for metric, value in values if value is not None)
    params = ", ".join(f"{name} {shown(value)}" for name, value in list(trial["params"].items())[:12])
    return f"trial {trial['no']} ({trial['state']}): {told or 'no value'}; {short(params)}"


def _legend(
    body: Element, marks: Sequence[Marked], report: Report, *, y: int, lines: Sequence[tuple[str, str]] = ()
) -> int:
    """What shapes and lines mean, as far as they occur; returns the height of the picture."""
    counts = Counter(kind for kind, _, _ in marks)
    words = {**_WORDS, "best": "on the Pareto front" if report["front"] else "best"}
    if report["constraints"]:
        words["kept"] = "keeps all constraints"
    entries = [(words[kind], kind, True) for kind in _SHAPES if counts[kind]]
    entries += [(text, kind, False) for text, kind in lines]
    x = 76.0
    for text, kind, is_mark in entries:
        wide = 24 + len(text) * 6.2 + 18
        if x > 76 and x + wide > WIDTH:
            x, y = 76.0, y + 18
        if is_mark:
            SubElement(body, "path", {"class": f"mark {kind}", "d": _SHAPES[kind](x + 7, y - 4, 3)})
        elif kind == "box":
            SubElement(body, "rect", {"class": "box", "x": _n(x), "y": str(y - 9), "width": "16", "height": "10"})
        else:
            _line(body, kind, x, y - 4, x + 18, y - 4)
        _text(body, text, x=x + 24, y=y, kind="label")
        x += wide
    return y + 8


def _line(body: Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    SubElement(body, "path", {"class": kind, "d": f"M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}"})


def _text(body: Element, text: str, *, x: float, y: float, kind: str, anchor: str = "start") -> Element:
    made = SubElement(body, "text", {"class": kind, "x": _n(x), "y": _n(y)})
    if anchor != "start":
        made.set("text-anchor", anchor)
    made.text = short(text)
    return made


def _say(element: Element, text: str) -> None:
    """What is told when the element is pointed at."""
    SubElement(element, "title").text = printable(text)


def printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _clipped(text: str, letters: int) -> str:
    """The end of a name tells more than its middle."""
    if len(text) <= letters:
        return text
    keep = letters - 1
    return f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"


def _name(kind: str, number: int) -> str:
    return kind if number == 0 else f"{kind}_{number + 1}"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _written(body: Element) -> str:
    return ElementTree.tostring(body, encoding="unicode")
