"""Windows cut from tables, tables with one series a row, and the made-up series."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fairlead.data import open_dataset
from fairlead.data.builtin.series import cycles, cylinder_bell_funnel
from fairlead.data.splits import split_in_time
from fairlead.errors import BadData
from fairlead.spec import DataSpec, SplitSpec

WINDOWS = {"time": "day", "series": "shop", "steps": 3, "horizon": 2}


def table(days: int = 20, shops: int = 2) -> list[list[Any]]:
    """Day, shop, sold, rain and city; day 5 of shop 1 has sold 105."""
    rows = [
        [day, f"s{shop}", 100 * shop + day, day % 2, "ab"[shop % 2]] for shop in range(shops) for day in range(days)
    ]
    return [rows[place] for place in np.random.RandomState(0).permutation(len(rows))]  # order must not matter


def spec_of(directory: Path, rows: list[list[Any]], windows: dict[str, Any] | None = None, **fields: Any) -> DataSpec:
    lines = ["day,shop,sold,rain,city", *(",".join(map(str, row)) for row in rows)]
    path = directory / "sales.csv"
    path.write_text("\n".join(lines) + "\n")
    content = {"uri": str(path), "target": "sold", "features": ["rain"], "windows": WINDOWS | (windows or {})}
    return DataSpec.model_validate(content | fields)


def test_a_window_shows_the_target_first_and_is_told_by_what_follows(tmp_path: Path) -> None:
    dataset = open_dataset(spec_of(tmp_path, table(), sensitive=["city"]))
    assert (dataset.info.kind, dataset.info.feature_shape) == ("sequences", (3, 2))
    assert dataset.info.num_rows == 2 * (20 - 5 + 1)
    assert dataset.info.details == {"channels": ["sold", "rain"], "horizon": 2, "season": 1}
    assert dataset.features[16 + 4].tolist() == [[104, 0], [105, 1], [106, 0]]
    assert dataset.targets["future"][16 + 4].tolist() == [107, 108]
    assert dataset.targets["scale"].tolist() == [1.0] * 32  # sales grow by one a day
    assert dataset.codes[:, 0].tolist() == [0] * 16 + [1] * 16
    assert dataset.info.target == "next 2 values of sold"


def test_no_window_reaches_from_one_series_into_another(tmp_path: Path) -> None:
    dataset = open_dataset(spec_of(tmp_path, table(shops=3)))
    both = np.concatenate([dataset.features[:, :, 0], dataset.targets["future"]], axis=1)
    assert np.all(np.diff(both, axis=1) == 1)


def test_what_is_trained_on_lies_before_what_is_tested_on(tmp_path: Path) -> None:
    dataset = open_dataset(spec_of(tmp_path, table()))
    days = {split: dataset.rows(split).targets["future"] % 100 for split in ("train", "validation", "test")}
    assert days["train"].max() < days["validation"].min()
    assert days["validation"].max() < days["test"].min()
    counts = dataset.info.num_by_split
    assert (counts["train"], counts["validation"], counts["test"]) == (16, 2, 10)  # 2 of each shop reach across


@pytest.mark.parametrize("validation", [0.0, 0.25])
@pytest.mark.parametrize("horizon", [0, 1, 5])
def test_splits_in_time_never_touch(validation: float, horizon: int) -> None:
    starts = np.random.RandomState(1).randint(0, 60, size=200).astype(float)
    shares = SplitSpec(train=0.75 - validation, validation=validation, test=0.25)
    splits = split_in_time(starts, starts + horizon, shares)
    ends = (starts + horizon)[splits["train"]].max()
    for name in ("validation", "test"):
        if len(splits[name]):
            assert ends < starts[splits[name]].min()
            ends = (starts + horizon)[splits[name]].max()
    assert len(splits["test"]) >= 50
    together = np.concatenate(list(splits.values()))
    assert len(set(together.tolist())) == len(together)


def test_the_scale_knows_nothing_of_what_comes_after_the_train_split(tmp_path: Path) -> None:
    rows = [[day, shop, sold * (1000 if day >= 14 else 1), *rest] for day, shop, sold, *rest in table()]
    assert set(open_dataset(spec_of(tmp_path, rows)).targets["scale"].tolist()) == {1.0}


def test_dates_order_rows_and_months_are_even_enough(tmp_path: Path) -> None:
    rows = [[f"20{20 + day // 12}-{day % 12 + 1:02d}-01", *rest] for day, *rest in table()]
    dataset = open_dataset(spec_of(tmp_path, rows))
    assert dataset.targets["future"][0].tolist() == [3, 4]


def _without(day: int) -> list[list[Any]]:
    return [row for row in table() if row[:2] != [day, "s1"]]


def _with(row: list[Any]) -> list[list[Any]]:
    return [*table(), row]


@pytest.mark.parametrize(
    ("rows", "fields", "words"),
    [
        (_without(7), {}, r"between the day 6 and 8 \(row \d+\) rows are missing"),
        (_with([7, "s1", 1, 0, "a"]), {}, r"row \d+ has the day 7, which its series has already"),
        (_with([20, "", 1, 0, "a"]), {}, "row 41 of 'shop' is missing"),
        (_with(["soon", "s1", 1, 0, "a"]), {}, "row 41 of 'day' is 'soon', which is no number"),
        ([[f"day {day}", *rest] for day, *rest in table()], {}, r"row 1 of 'day' is 'day \d+', which is no date"),
        (_with([20, "s1", "", 0, "a"]), {}, "row 41 of column 'sold' is missing"),
        (_with([20, "s1", "few", 0, "a"]), {}, "row 41 of column 'sold': 'few' is not a number"),
        (_with([20, "s9", 1, 0, "a"]), {}, "the series of row 41 has 1 rows, fewer than the 5 of one window"),
        (table(), {"features": ["city"]}, "list the columns of numbers"),
        (table(), {"windows": {"time": "date"}}, "there is no column 'date'"),
        (table(), {"windows": {"series": "store"}}, "there is no column 'store'"),
        (table(), {"windows": {"season": 19}}, "has fewer than 20 rows"),
        (table(), {"windows": {"steps": 50}}, "fewer than the 52 of one window"),
        ([[day, shop, 3, *rest] for day, shop, _, *rest in table()], {}, "does not change from season to season"),
        (table(6), {}, "of 4 windows none lies wholly in the train split"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(
    tmp_path: Path, rows: list[list[Any]], fields: dict[str, Any], words: str
) -> None:
    changed = dict(fields)
    with pytest.raises(BadData, match=words):
        open_dataset(spec_of(tmp_path, rows, changed.pop("windows", None), **changed))


def test_pictures_have_no_windows() -> None:
    windows = {"time": "ink", "steps": 2, "horizon": 1}
    with pytest.raises(BadData, match="holds no table"):
        open_dataset(DataSpec.model_validate({"uri": "builtin://digits", "windows": windows}))


@pytest.mark.parametrize("fields", [{"steps": 4}, {"predict": "number"}, {"record_id": "day"}, {"positive": "1"}])
def test_windows_exclude_what_labels_have(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="windows"):
        DataSpec.model_validate({"uri": "a.csv", "target": "b", "windows": WINDOWS, **fields})


def test_specs_without_series_keep_their_hash() -> None:
    assert {"windows", "steps"}.isdisjoint(DataSpec(uri="a.csv").model_dump())


def wide(directory: Path) -> Path:
    path = directory / "wide.csv"
    lines = [f"{row},{row + 10},{row + 20},{row + 30},{'yes' if row % 2 else 'no'}" for row in range(30)]
    path.write_text("\n".join(["a0,b0,a1,b1,label", *lines]) + "\n")
    return path


def test_feature_columns_are_steps_with_the_channels_of_a_step_together(tmp_path: Path) -> None:
    dataset = open_dataset(DataSpec(uri=str(wide(tmp_path)), target="label", steps=2))
    assert (dataset.info.kind, dataset.info.classes) == ("sequences", ("no", "yes"))
    assert dataset.features[3].tolist() == [[3, 13], [23, 33]]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target": "label", "steps": 3}, "4 feature columns are no 3 steps"),
        ({"target": "a0", "steps": 2}, "'label' holds texts"),
    ],
)
def test_columns_that_are_no_steps_are_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadData, match=words):
        open_dataset(DataSpec.model_validate({"uri": str(wide(tmp_path)), **fields}))


def test_sets_that_are_no_tables_have_no_columns_to_fold() -> None:
    with pytest.raises(BadData, match="no table whose columns are steps"):
        open_dataset(DataSpec(uri="builtin://digits", steps=8))


def test_cycles_are_as_rough_and_as_long_as_said() -> None:
    columns = cycles(stations=40, months=600).columns
    values = columns["value"].reshape(40, 600)
    rough, calm = (values[start::2] for start in (1, 0))
    jumps = [np.abs(np.diff(part, n=2, axis=1)).mean() for part in (rough, calm)]
    assert jumps[0] > 1.5 * jumps[1]
    centred = values - values.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(centred, axis=1)).mean(axis=0)
    assert power[45:56].argmax() == 5, "the season: 50 times in 600 months"
    assert 24 < 600 / (10 + power[10:40].argmax()) < 36, "the cycle, between trend and season"
    assert np.array_equal(columns["value"], cycles(stations=40, months=600).columns["value"])
    assert not np.array_equal(columns["value"], cycles(seed=1, stations=40, months=600).columns["value"])


def test_forms_are_what_their_names_say() -> None:
    source = cylinder_bell_funnel(rows=3000)
    assert source.array is not None
    early, late = source.array[:, 30:45, 0].mean(axis=1), source.array[:, 60:75, 0].mean(axis=1)
    slope = {form: (late - early)[source.columns["form"] == form].mean() for form in ("cylinder", "bell", "funnel")}
    assert slope["bell"] > 0.3 > slope["cylinder"] > slope["funnel"]
    assert source.array[:, :16].std() == pytest.approx(1, abs=0.02)  # noise alone before anything happens
