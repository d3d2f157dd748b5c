"""Series: windows cut from a table of moments, to be foretold, and tables with one whole series a row.

A *window* is ``steps`` rows of one series that follow each other, and the ``horizon`` rows after them. Windows begin at
every row, so they overlap; none reaches from one series into another. Splits are by time (``split_in_time``): nothing
that a train window foretells is later than anything that a test window foretells. What a test window *sees* may have
been foretold in training: when it counts, the past is known.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fairlead.data import inputs
from fairlead.data.columns import Source, as_texts, first_missing
from fairlead.data.splits import split_in_time
from fairlead.data.storage import bad
from fairlead.spec import DataSpec
from fairlead.workload import FeatureColumn

LONGEST_STEP = 1.5
"""Times the usual distance of two rows; beyond it rows are missing. Months, which differ by a tenth, are even."""
MOST_NUMBERS = 2**29


def cut(table: Source, spec: DataSpec, target: str) -> tuple[Source, Mapping[str, NDArray[np.int64]]]:
    """The windows that ``spec.windows`` asks for, and which of them belong to each split.

    ``array``: shape (windows, steps, channels), the target's channel first; ``targets``: ``future``, shape (windows,
    horizon), and ``scale``, shape (windows,): the mean absolute error of repeating the last season, over the part of
    the window's series that lies before the end of the train split. The other columns are those of the last row seen.
    Raises ``BadData`` naming row, column or series.
    """
    asked = spec.windows
    assert asked is not None, "only such tables are cut"
    if table.kind != "table":
        raise bad("/data/windows", f"{table.uri} holds no table, so there are no windows to cut")
    times = _times(table, asked.time)
    series = _series(table, asked.series)
    order = np.lexsort((times, series))
    names = _channels(spec, table, target)
    rows = _numbers(table, names)[order]
    length = asked.steps + asked.horizon
    edges = np.flatnonzero(np.r_[True, series[order][1:] != series[order][:-1], True])
    _refuse_uneven(table, order, edges, times=times, time=asked.time)
    _refuse_short(table, order, edges, series=series, length=length)
    firsts = np.concatenate([np.arange(a, b - length + 1) for a, b in pairwise(edges)])
    if len(firsts) * asked.steps * len(names) > MOST_NUMBERS:
        message = f"{table.uri}: {len(firsts)} windows of {asked.steps} steps do not fit into memory"
        raise bad("/data/windows/steps", message, "make them shorter or take fewer rows")
    windows = sliding_window_view(rows, length, axis=0)[firsts]  # (windows, channels, steps + horizon)
    last_seen, first_told = order[firsts + asked.steps - 1], order[firsts + asked.steps]
    last_told = order[firsts + length - 1]
    by_split = split_in_time(times[first_told], times[last_told], spec.split)
    if not len(by_split["train"]):
        message = f"{table.uri}: of {len(firsts)} windows none lies wholly in the train split"
        raise bad("/data/split/train", message, "give it a larger share, or make windows shorter")
    known_until = times[last_told][by_split["train"]].max()
    scales = _scales(table, rows[:, 0], times, order, edges, season=asked.season, until=known_until)
    scale = scales[np.searchsorted(edges, firsts, side="right") - 1]
    name_of = as_texts(table.columns[asked.time])
    prefixes = as_texts(table.columns[asked.series])[first_told] + "/" if asked.series else ""
    source = Source(
        uri=table.uri,
        num_rows=len(firsts),
        columns={name: column[last_seen] for name, column in table.columns.items()},
        kind="sequences",
        array=np.ascontiguousarray(windows[:, :, : asked.steps].transpose(0, 2, 1)),
        targets={"future": windows[:, 0, asked.steps :].copy(), "scale": scale},
        learns=f"next {asked.horizon} values of {target}",
        details={"channels": list(names), "horizon": asked.horizon, "season": asked.season},
        ids=prefixes + name_of[first_told],
        level_order=table.level_order,
    )
    return source, by_split


def fold(
    matrix: NDArray[np.float32], columns: tuple[FeatureColumn, ...], *, spec: DataSpec, uri: str
) -> NDArray[np.float32]:
    """Feature columns as steps of a series, shape (rows, steps, channels). Raises ``BadData`` where they do not fit."""
    steps = spec.steps
    assert steps is not None, "only such tables are folded"
    if texts := [column.name for column in columns if column.dtype == "str"]:
        raise bad("/data/features", f"{uri}: the column {texts[0]!r} holds texts, which are no steps of a series")
    if matrix.shape[1] % steps:
        message = f"{uri}: {matrix.shape[1]} feature columns are no {steps} steps of as many channels each"
        raise bad("/data/steps", message, "list data.features, or correct data.steps")
    return matrix.reshape(len(matrix), steps, -1)


def _times(table: Source, name: str) -> NDArray[np.float64]:
    """The moment of each row, shape (rows,): numbers as they are, dates in seconds."""
    import pandas

    column = table.columns[name]
    if (row := first_missing(column)) is not None:
        raise bad("/data/windows/time", f"{table.uri}: row {row + 1} of {name!r} is missing")
    if column.dtype != object:
        return column.astype(np.float64)
    dates = pandas.to_datetime(pandas.Series(column), format="ISO8601", utc=True, errors="coerce")
    if dates.isna().any():
        strays = pandas.to_numeric(pandas.Series(column), errors="coerce").isna()
        if strays.mean() < 0.5:
            row = int(strays.argmax())
            raise bad(
                "/data/windows/time", f"{table.uri}: row {row + 1} of {name!r} is {column[row]!r}, which is no number"
            )
        row = int(dates.isna().argmax())
        message = f"{table.uri}: row {row + 1} of {name!r} is {column[row]!r}, which is no date"
        raise bad("/data/windows/time", message, "write dates as 2026-03-31 or 2026-03-31 14:00, or number the steps")
    seconds = (dates - pandas.Timestamp(0, tz="UTC")) / pandas.Timedelta(seconds=1)
    return seconds.to_numpy(dtype=np.float64)


def _series(table: Source, name: str | None) -> NDArray[np.int64]:
    """A number for the series of each row, shape (rows,)."""
    if name is None:
        return np.zeros(table.num_rows, dtype=np.int64)
    column = table.columns[name]
    if (row := first_missing(column)) is not None:
        raise bad("/data/windows/series", f"{table.uri}: row {row + 1} of {name!r} is missing")
    return np.unique(as_texts(column).astype(str), return_inverse=True)[1].astype(np.int64)


def _channels(spec: DataSpec, table: Source, target: str) -> tuple[str, ...]:
    """The columns that a window shows, the one to foretell first."""
    assert spec.windows is not None, "only such tables are cut"
    aside = {spec.windows.time, spec.windows.series, *spec.sensitive}
    names = spec.features or tuple(name for name in table.features or table.columns if name not in aside)
    return (target, *(name for name in dict.fromkeys(names) if name != target))


def _numbers(table: Source, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Channels of all rows, shape (rows, channels). Raises ``BadData`` naming row and column."""
    columns = tuple(FeatureColumn(name=name, dtype="float32") for name in names)
    try:
        return inputs.to_matrix(table.columns.__getitem__, columns, num_rows=table.num_rows)
    except ValueError as error:
        hint = "list the columns of numbers as data.features" if "is not a number" in str(error) else None
        raise bad("/data/features", f"{table.uri}: {error}", hint) from error


def _refuse_uneven(
    table: Source, order: NDArray[np.int64], edges: NDArray[np.int64], *, times: NDArray[np.float64], time: str
) -> None:
    """Two rows of one moment, or a step left out: a model would take the rows around the gap for neighbours."""
    for first, last in pairwise(edges):
        distances = np.diff(times[order[first:last]])
        if not len(distances):
            continue
        texts = as_texts(table.columns[time])
        if distances.min() <= 0:
            row = int(order[first + int(distances.argmin()) + 1])
            message = f"{table.uri}: row {row + 1} has the {time} {texts[row]}, which its series has already"
            raise bad("/data/windows/series", message, "name the column that tells series apart")
        if distances.max() > LONGEST_STEP * np.median(distances):
            before = first + int(distances.argmax())
            row, after = int(order[before]), int(order[before + 1])
            message = (
                f"{table.uri}: between the {time} {texts[row]} and {texts[after]} (row {after + 1}) rows are missing"
            )
            raise bad("/data/windows/time", message, "fill them in, or number the steps")


def _refuse_short(
    table: Source, order: NDArray[np.int64], edges: NDArray[np.int64], *, series: NDArray[np.int64], length: int
) -> None:
    sizes = np.diff(edges)
    if sizes.min() >= length:
        return
    row = int(order[edges[int(sizes.argmin())]])
    message = f"{table.uri}: the series of row {row + 1} has {sizes.min()} rows, fewer than the {length} of one window"
    raise bad("/data/windows/steps", message, "make windows shorter, or leave such series out")


def _scales(
    table: Source,
    values: NDArray[np.float32],
    times: NDArray[np.float64],
    order: NDArray[np.int64],
    edges: NDArray[np.int64],
    *,
    season: int,
    until: float,
) -> NDArray[np.float64]:
    """What an error of 1 is for each series, shape (series,). ``values``: by series, then time, as ``order`` has them.

    Source: Hyndman, Koehler 2006, mean absolute scaled error, its seasonal form.
    """
    scales = np.ones(len(edges) - 1)
    for place, (first, last) in enumerate(pairwise(edges)):
        known = values[first:last][times[order[first:last]] <= until].astype(np.float64)
        changes = np.abs(known[season:] - known[:-season])
        if not len(changes) or changes.mean() == 0:
            why = "does not change from season to season" if len(changes) else f"has fewer than {season + 1} rows"
            message = f"{table.uri}: before the end of the train split the series of row {order[first] + 1} {why}"
            raise bad("/data/windows/season", message, "leave such series out, or choose another season")
        scales[place] = changes.mean()
    return scales
