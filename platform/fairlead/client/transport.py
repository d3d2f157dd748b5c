"""One HTTP connection to the API: time-outs, repeated tries, problems turned into errors, and event streams.

Every call here may be repeated: reads, calls with an idempotency key, and calls whose second time changes nothing.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from fairlead.client.errors import error_of
from fairlead.errors import Unavailable

TIMEOUT = httpx.Timeout(30, connect=5)
STREAM_TIMEOUT = httpx.Timeout(45, connect=5)
"""The server pings every 15 s: three missed pings are a dead connection."""
TRIES = 9
"""Together about 20 s: a server that is started again on a busy machine needs them."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
_LATER = frozenset({502, 503, 504, 429})
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

Sleep = Callable[[float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerEvent:
    """One message of a stream."""

    name: str
    id: str
    data: str


class Transport:
    """Speaks to one API with one token. Safe to share between threads."""

    def __init__(self, url: str, token: str | None, *, sleep: Sleep = time.sleep) -> None:
        headers = {"User-Agent": "fairlead-client", **({"Authorization": f"Bearer {token}"} if token else {})}
        # A proxy from the environment knows nothing of this machine's loopback.
        trusts_environment = urlsplit(url).hostname not in _LOOPBACK
        self.url = url.rstrip("/")
        self._sleep = sleep
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT, trust_env=trusts_environment)

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def pause(self) -> None:
        """Rest before asking the same thing again."""
        self._sleep(FIRST_PAUSE_S)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        document: Any = None,
        tolerates: tuple[int, ...] = (),
    ) -> httpx.Response:
        """The answer, after as many tries as it takes. Raises a ``FairleadError`` for a status of 400 and above."""
        headers = dict(headers or {})
        if document is not None:
            content = json.dumps(document, default=str).encode()
            headers["Content-Type"] = "application/json"
        build = self._http.build_request
        for attempt in range(1, TRIES + 1):
            answer = self._try(
                lambda: self._http.send(build(method, path, params=params, headers=headers, content=content))
            )
            if isinstance(answer, httpx.Response) and not _is_worth_repeating(answer):
                break
            if attempt < TRIES:
                self._sleep(_pause_s(answer, attempt))
        if isinstance(answer, Unavailable):
            raise answer
        if answer.status_code >= 400 and answer.status_code not in tolerates:
            raise error_of(answer)
        return answer

    def stream(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        last_id: str | None = None,
        deadline: float | None = None,
    ) -> Iterator[ServerEvent]:
        """Follow a stream to its ``end``, through broken connections, each message once.

        ``last_id``: the last message already known. ``deadline``: on ``time.monotonic``; raises ``TimeoutError`` then.
        """
        failures = 0
        while True:
            try:
                for event in self._connected(path, params, last_id, deadline):
                    failures = 0
                    if event.name == "end":
                        return
                    last_id = event.id or last_id
                    yield event
            except (httpx.TransportError, RuntimeError) as error:
                if self._http.is_closed:
                    return  # closed here, by another thread: nobody listens any more
                if isinstance(error, RuntimeError):
                    raise
                _raise_if_late(deadline)
                was_silent = deadline is not None and isinstance(error, httpx.ReadTimeout)
                failures += 0 if was_silent else 1
                if failures >= TRIES:
                    raise Unavailable(self._silence(error)) from error
            _raise_if_late(deadline)
            self._sleep(_pause_s(None, max(failures, 1)))

    def _connected(
        self, path: str, params: Mapping[str, str] | None, last_id: str | None, deadline: float | None
    ) -> Iterator[ServerEvent]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        timeout = STREAM_TIMEOUT if deadline is None else httpx.Timeout(_left(deadline), connect=5)
        with self._http.stream("GET", path, params=params, headers=headers, timeout=timeout) as answer:
            if answer.status_code >= 400:
                answer.read()
                if answer.status_code in _LATER:
                    raise httpx.ReadError(f"the server answered {answer.status_code}")
                raise error_of(answer)
            yield from server_events(_until(deadline, answer.iter_lines()))

    def _try(self, send: Callable[[], httpx.Response]) -> httpx.Response | Unavailable:
        try:
            return send()
        except httpx.TransportError as error:
            unavailable = Unavailable(self._silence(error))
            unavailable.__cause__ = error
            return unavailable

    def _silence(self, error: Exception) -> str:
        return f"{self.url} does not answer ({type(error).__name__}); is it running, and is the address right?"


def server_events(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """Parse ``text/event-stream``. A message without data is skipped unless it has a name (such as ``end``)."""
    name, event_id, data = "", "", list[str]()
    for line in lines:
        if not line:
            if data or name:
                yield ServerEvent(name=name or "message", id=event_id, data="\n".join(data))
            name, event_id, data = "", "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                name = value
            case "id":
                event_id = value
            case "data":
                data.append(value)
            case _:
                pass  # comments are pings


def _is_worth_repeating(answer: httpx.Response) -> bool:
    """Not now, but soon: overloaded, restarting, or the first of two equal calls is still at work."""
    is_in_flight = answer.status_code == 409 and "retry-after" in answer.headers
    return answer.status_code in _LATER or is_in_flight


def _pause_s(answer: httpx.Response | Unavailable | None, attempt: int) -> float:
    asked = answer.headers.get("retry-after", "") if isinstance(answer, httpx.Response) else ""
    if asked.isdecimal():
        return min(float(asked), LONGEST_PAUSE_S)
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt) * random.uniform(0.75, 1)


def _left(deadline: float) -> float:
    """Short, so that a quiet stream does not outstay the deadline by more than one read."""
    return min(5.0, max(0.05, deadline - time.monotonic()))


def _until(deadline: float | None, lines: Iterator[str]) -> Iterator[str]:
    """Pings are lines too: a stream that only pings ends at the deadline all the same."""
    for line in lines:
        yield line
        _raise_if_late(deadline)


def _raise_if_late(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise TimeoutError("the experiment has not ended yet; it goes on, and can be asked again")
