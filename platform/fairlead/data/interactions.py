"""Users with items: a row is a pair of both, and whether the user clicked on the item.

A table with columns called ``user`` and ``item`` is read as such. With a column ``clicked`` its rows are the pairs;
without one they are those that were clicked, and every other pair of a user and an item in it was not.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Column, Source, as_texts, first_missing
from fairlead.errors import BadData, Problem

MOST_PAIRS = 5_000_000
USER, ITEM, CLICKED = "user", "item", "clicked"


def are_interactions(names: Sequence[str]) -> bool:
    """Whether a table with these columns holds users with items."""
    return USER in names and ITEM in names


def interactions_of(uri: str, columns: Mapping[str, Column]) -> Source:
    """Pairs out of a table. Raises ``BadData`` naming the row or the column.

    Users and items have numbers by the order of their names, of whole numbers by their size; ``details`` lists the
    names. Other columns go along as attributes; where pairs are made, each must belong to the user or to the item.
    """
    users, user_names = _numbered(uri, USER, columns[USER])
    items, item_names = _numbered(uri, ITEM, columns[ITEM])
    rest = {name: column for name, column in columns.items() if name not in (USER, ITEM)}
    if CLICKED in rest:
        _refuse_repeated(uri, users, items, user_names, item_names)
        return pairs(uri, users, items, rest, user_names=user_names, item_names=item_names)
    number = len(user_names) * len(item_names)
    if number > MOST_PAIRS:
        message = f"{uri}: {len(user_names)} users with {len(item_names)} items make {number} pairs"
        raise _bad(message, f"at most {MOST_PAIRS} are made; list the pairs to rank, with a column {CLICKED!r}")
    every_user = np.repeat(np.arange(len(user_names)), len(item_names))
    every_item = np.tile(np.arange(len(item_names)), len(user_names))
    is_clicked = np.zeros(number, dtype=bool)
    is_clicked[users * len(item_names) + items] = True
    made: dict[str, Column] = {
        name: _spread(uri, name, column, (users, every_user), (items, every_item)) for name, column in rest.items()
    }
    made[CLICKED] = np.where(is_clicked, "yes", "no").astype(object)
    return pairs(uri, every_user, every_item, made, user_names=user_names, item_names=item_names)


def pairs(
    uri: str,
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    columns: Mapping[str, Column],
    *,
    user_names: Sequence[str],
    item_names: Sequence[str],
    level_order: Mapping[str, tuple[str, ...]] | None = None,
) -> Source:
    """The source of pairs: ``users`` and ``items`` are places in the lists of names, shape (rows,)."""
    names_of_users, names_of_items = np.array(user_names, dtype=object), np.array(item_names, dtype=object)
    return Source(
        uri=uri,
        num_rows=len(users),
        columns=columns,
        kind="interactions",
        array=np.stack([users, items], axis=1).astype(np.int64),
        ids=names_of_users[users] + "/" + names_of_items[items],
        target=CLICKED,
        level_order=level_order or {},
        details={"users": list(user_names), "items": list(item_names)},
    )


def _numbered(uri: str, name: str, column: Column) -> tuple[NDArray[np.int64], list[str]]:
    if (row := first_missing(column)) is not None:
        raise _bad(f"{uri}: row {row + 1} has no {name}", "remove such rows")
    if column.dtype.kind in "iu":
        values, places = np.unique(column, return_inverse=True)
        return places.astype(np.int64), [str(value) for value in values.tolist()]
    found, places = np.unique(as_texts(column).astype(str), return_inverse=True)
    return places.astype(np.int64), [str(text) for text in found]


def _refuse_repeated(
    uri: str,
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    user_names: Sequence[str],
    item_names: Sequence[str],
) -> None:
    keys = users * len(item_names) + items
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if len(same):
        row = int(order[same[0] + 1])
        pair = f"{user_names[users[row]]!r} with {item_names[items[row]]!r}"
        raise _bad(f"{uri}: row {row + 1} is the pair of {pair} again", "a pair must stand in one row")


def _spread(
    uri: str,
    name: str,
    column: Column,
    by_user: tuple[NDArray[np.int64], NDArray[np.int64]],
    by_item: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> Column:
    """The column for every pair, from the item that it belongs to, or from the user."""
    texts = as_texts(column)
    for keys, every in (by_item, by_user):
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        if (texts[first][place] == texts).all():
            spread: Column = column[first][every]
            return spread
    keys = by_item[0]
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    row = int(np.argmax(texts[first][place] != texts))
    message = f"{uri}: {name!r} is {texts[row]!r} in row {row + 1} and another for the same item elsewhere"
    hint = f"a column must belong to the user or to the item where pairs are made; or add a column {CLICKED!r}"
    raise _bad(message, hint)


def _bad(message: str, suggestion: str) -> BadData:
    problem = Problem(pointer="/data/uri", message=message, suggestion=suggestion)
    return BadData(f"{message}; {suggestion}", problems=(problem,))
