"""Looks at MLflow's registry, whoever has written there, and hangs one tag on versions: ``fairlead.flag``.

Reading is cut into calls of bounded size. Each method may be repeated. Raises like ``recorder``: ``Unavailable`` where
the server does not answer, ``BadInput`` where it refuses. One thread at a time. Apply ``server.client_environment``
before the first import.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient

from fairlead.errors import BadInput, NotFound
from fairlead.tracking.documents import FLAG_TAG, REPORT_TAG, VersionSeen
from fairlead.tracking.keys import MAX_TAG_CHARACTERS, chunks, truncated
from fairlead.tracking.reach import reaching

NAMES_A_CALL = 100
"""Their names have at most 63 characters each, and travel in an address."""
VERSIONS_A_CALL = 500
MODELS_A_CALL = 500
_CLAIMS = f"tags.`{REPORT_TAG}` LIKE '%'"
_BY_NUMBER = ("version_number ASC",)
T = TypeVar("T")


class Registry:
    """The registry of the MLflow server at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client = MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def aliases(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Version by alias, of those of the models that are there."""
        found: dict[str, dict[str, str]] = {}
        for part in chunks(names, NAMES_A_CALL):
            with reaching(self.url):
                models = self._client.search_registered_models(_named(part), max_results=NAMES_A_CALL)
            found |= {model.name: {alias: str(at) for alias, at in model.aliases.items()} for model in models}
        return found

    def versions(self, names: Sequence[str], *, most: int) -> tuple[list[VersionSeen], frozenset[str]]:
        """The versions of models, and the names of those that have more than ``most``, of which none are returned."""
        found: list[VersionSeen] = []
        large: set[str] = set()
        for part in chunks(names, NAMES_A_CALL):
            seen, token = self._search(_named(part))
            if token is None:
                found += seen
                continue
            for name in part:
                of_one = self._versions_of(name, most=most)
                if of_one is None:
                    large.add(name)
                else:
                    found += of_one
        return found, frozenset(large)

    def _versions_of(self, name: str, *, most: int) -> list[VersionSeen] | None:
        """By number, each call going on behind the last: what is deleted meanwhile makes none be passed over."""
        found: list[VersionSeen] = []
        while len(found) <= most:
            after = found[-1].version if found else "0"
            seen, token = self._search(f"{_named([name])} AND version_number > {after}")
            found += seen
            if token is None:
                return found if len(found) <= most else None
        return None

    def claims(self, *, without: Sequence[str], most: int) -> list[VersionSeen]:
        """Versions of other models than ``without`` that carry the tag of a report; at most ``most``."""
        known, first = set(without), without[:NAMES_A_CALL]
        claiming = f"{_CLAIMS} AND name NOT IN ({_quoted(first)})" if first else _CLAIMS
        found = _pages(partial(self._search, claiming, order=("name ASC", *_BY_NUMBER)))
        return list(islice((version for version in found if version.name not in known), most))

    def others(self, *, without: Iterable[str], most: int) -> list[str]:
        """Names of other models than ``without``; at most ``most``."""

        def search(token: str | None) -> tuple[list[str], str | None]:
            with reaching(self.url):
                models = self._client.search_registered_models(max_results=MODELS_A_CALL, page_token=token)
            return [model.name for model in models], models.token or None

        known = set(without)
        return list(islice((name for name in _pages(search) if name not in known), most))

    def artifact(self, run_id: str, path: str, *, max_bytes: int) -> bytes | None:
        """A file among the artifacts of a run; None where run or file is gone. Raises ``BadInput`` where it is larger.

        A run that somebody has deleted keeps its files until MLflow's own clearing.
        """
        directory, _, _ = path.rpartition("/")
        try:
            with reaching(self.url):
                sizes = {one.path: one.file_size or 0 for one in self._client.list_artifacts(run_id, directory)}
                if path not in sizes:
                    return None
                if sizes[path] > max_bytes:
                    raise BadInput(f"{path} has {sizes[path]:,} bytes, which no report has")
                with tempfile.TemporaryDirectory(prefix="fairlead-") as scratch:
                    return Path(self._client.download_artifacts(run_id, path, scratch)).read_bytes()
        except NotFound:
            return None

    def flag(self, version: VersionSeen, text: str | None) -> None:
        """Say on a version what is wrong with it, or that nothing is; no call where it is said already."""
        said = None if text is None else truncated(text, limit=MAX_TAG_CHARACTERS)
        if version.tags.get(FLAG_TAG) == said:
            return
        try:
            with reaching(self.url):
                if said is None:
                    self._client.delete_model_version_tag(version.name, version.version, FLAG_TAG)
                else:
                    self._client.set_model_version_tag(version.name, version.version, FLAG_TAG, said)
        except NotFound:
            return  # it was deleted a moment ago

    def _search(
        self, wanted: str, token: str | None = None, *, order: Sequence[str] = _BY_NUMBER
    ) -> tuple[list[VersionSeen], str | None]:
        with reaching(self.url):
            page = self._client.search_model_versions(
                wanted, max_results=VERSIONS_A_CALL, order_by=list(order), page_token=token
            )
        return [_seen(one) for one in page], page.token or None


def _pages(search: Callable[[str | None], tuple[list[T], str | None]]) -> Iterator[T]:
    """What all pages hold, each asked for when it is needed."""
    items, token = search(None)
    yield from items
    while token is not None:
        items, token = search(token)
        yield from items


def _named(names: Sequence[str]) -> str:
    return f"name IN ({_quoted(names)})"


def _quoted(names: Sequence[str]) -> str:
    """Names of specs: letters, digits, ``-`` and ``_`` only."""
    return ", ".join(f"'{name}'" for name in names)


def _seen(version: Any) -> VersionSeen:
    return VersionSeen(
        name=version.name,
        version=str(version.version),
        source=str(version.source or ""),
        run_id=version.run_id or None,
        tags=dict(version.tags),
    )
