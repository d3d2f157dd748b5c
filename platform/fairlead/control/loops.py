"""Runs the loops in threads while this process leads. A loop is a tick and a way to stop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event, Thread

import structlog

from fairlead.clock import Clock, SystemClock
from fairlead.control.dispatch import Dispatch
from fairlead.control.evaluate import Evaluate
from fairlead.control.leader import RENEW_S, Leadership
from fairlead.control.reap import Reap
from fairlead.control.record import Record
from fairlead.control.settle import Settle
from fairlead.data import find_manifests
from fairlead.errors import Unavailable
from fairlead.settings import ControlSettings
from fairlead.spec import Manifest
from fairlead.store import Store

logger = structlog.get_logger(__name__)
Tick = Callable[[], bool]


class Bell:
    """Wakes every loop that rests. Ringing is cheap and may be repeated."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def listener(self) -> Event:
        """An event of one loop."""
        event = Event()
        self._events.append(event)
        return event

    def ring(self) -> None:
        """There may be something to do."""
        for event in self._events:
            event.set()


def run_until(stop: Event, tick: Tick, *, name: str, idle_s: float, wake: Event, may_run: Callable[[], bool]) -> None:
    """Tick until ``stop``; rest only when a tick found nothing to do, until ``idle_s`` or a ring."""
    while not stop.is_set():
        wake.clear()
        is_busy = may_run() and _tick(tick, name)
        if not is_busy:
            wake.wait(idle_s)


def _tick(tick: Tick, name: str) -> bool:
    try:
        return tick()
    except Unavailable as error:
        logger.warning("waiting", loop=name, reason=str(error))
    except Exception:  # one bad experiment must not stop the others
        logger.exception("tick failed", loop=name)
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Loops:
    """The running loops."""

    bell: Bell
    _stop: Event
    _threads: tuple[Thread, ...]
    leadership: Leadership

    def hint(self) -> None:
        """Wake the loops: something was submitted or has ended."""
        self.bell.ring()

    def stop(self, *, timeout_s: float = 10) -> None:
        """End after the ticks under way, and hand the lease over."""
        self._stop.set()
        self.bell.ring()
        for thread in self._threads:
            thread.join(timeout_s)
        try:
            self.leadership.release()
        except Unavailable as error:
            logger.warning("the lease was not released; it will expire", reason=str(error))


def start(
    store: Store,
    settings: ControlSettings,
    *,
    clock: Clock | None = None,
    manifests: Mapping[str, Manifest] | None = None,
) -> Loops:
    """Start the loops in threads of this process; they work while it holds the lease."""
    clock = clock or SystemClock()
    manifests = find_manifests() if manifests is None else manifests
    stop, bell, leadership = Event(), Bell(), Leadership(store=store, clock=clock)
    settle = Settle(store=store, clock=clock, settings=settings)
    ticks: dict[str, tuple[Tick, float]] = {
        "dispatch": (Dispatch(store=store, clock=clock, settings=settings, manifests=manifests), settings.idle_s),
        "settle": (settle, settings.idle_s),
        "evaluate": (Evaluate(store=store, clock=clock, settings=settings), settings.idle_s),
        "record": (Record(store=store, clock=clock, settings=settings), settings.idle_s),
        "reap": (Reap(store=store, clock=clock, settings=settings), 5.0),
    }
    threads = [Thread(target=_lead, args=(stop, bell, leadership), name="lead", daemon=True)]
    for name, (tick, idle_s) in ticks.items():
        chained = _ringing(tick, bell) if name != "reap" else tick
        options = {"name": name, "idle_s": idle_s, "wake": bell.listener(), "may_run": lambda: leadership.is_held}
        threads.append(Thread(target=run_until, args=(stop, chained), kwargs=options, name=name, daemon=True))
    for thread in threads:
        thread.start()
    return Loops(bell=bell, _stop=stop, _threads=tuple(threads), leadership=leadership)


def _ringing(tick: Tick, bell: Bell) -> Tick:
    """A step of one loop is often what another waits for."""

    def ticking() -> bool:
        is_busy = tick()
        if is_busy:
            bell.ring()
        return is_busy

    return ticking


def _lead(stop: Event, bell: Bell, leadership: Leadership) -> None:
    """Renew the lease in a thread of its own: a slow tick must not lose it."""
    while not stop.is_set():
        was_held = leadership.is_held
        try:
            if leadership.renew() and not was_held:
                logger.info("leading", epoch=leadership.epoch)
                bell.ring()
        except Unavailable as error:
            logger.warning("the lease could not be renewed", reason=str(error))
        except Exception:  # a database in a state nobody thought of: without this thread no loop would ever run again
            logger.exception("the lease could not be renewed")
        stop.wait(RENEW_S if leadership.is_held else 1.0)
