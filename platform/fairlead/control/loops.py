"""Runs the loops in threads while this process leads. A loop is a tick and a way to stop."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import structlog

from fairlead.clock import Clock, SystemClock
from fairlead.control.deliver import Deliver
from fairlead.control.dispatch import Dispatch
from fairlead.control.evaluate import Evaluate
from fairlead.control.leader import Leadership, Term, stale_writes_dropped
from fairlead.control.meters import LOOPS
from fairlead.control.reap import Reap
from fairlead.control.record import Record
from fairlead.control.settle import Settle
from fairlead.control.verify import Verify
from fairlead.data import find_manifests
from fairlead.errors import StaleLeader, Unavailable
from fairlead.settings import ControlSettings
from fairlead.spec import Manifest
from fairlead.store import Store, beside
from fairlead.store.bell import Bell

RINGING = ("dispatch", "settle", "evaluate")
"""Loops whose steps others wait for; nobody waits for what is recorded or reaped."""
logger = structlog.get_logger(__name__)
Tick = Callable[[], bool]
REAP_S = 5.0
FOLLOW_S = 1.0
"""How often a process that does not lead looks whether it may."""
REST_SHARE = 9.0
REST_AT_MOST_S = 0.25
"""After a tick a loop rests this many times as long as the tick took, but no longer than this: then a burst of rings,
such as a hundred submits a second, costs a loop whose ticks are short a tenth of the time, and one ring alone is heard
at once."""
PACED = ("deliver",)
"""Loops that wait inside a tick while they have something to do: a rest would leave answers unread."""


def run_until(stop: Event, tick: Tick, *, name: str, idle_s: float, wake: Event, may_run: Callable[[], bool]) -> None:
    """Tick until ``stop``; when a tick found nothing to do, wait for ``idle_s`` or a ring. Ticks do not crowd.

    A loop in ``PACED`` rests after such ticks only.
    """
    with structlog.contextvars.bound_contextvars(loop=name):
        while not stop.is_set():
            wake.clear()
            began_s = time.monotonic()
            is_busy = may_run() and _tick(tick, name)
            ended_s = time.monotonic()
            if not is_busy:
                wake.wait(idle_s)
            if is_busy and name in PACED:
                continue
            rested_s = time.monotonic() - ended_s
            stop.wait(max(0.0, min(REST_AT_MOST_S, REST_SHARE * (ended_s - began_s)) - rested_s))


def _tick(tick: Tick, name: str) -> bool:
    try:
        with LOOPS.round(name):
            return tick()
    except StaleLeader as error:
        dropped = stale_writes_dropped.value
        logger.info("the tick is given up", reason=str(error), stale_write_dropped=dropped)
    except Unavailable as error:
        logger.warning("waiting", reason=str(error))
    except Exception:  # one bad experiment must not stop the others
        logger.exception("tick failed")
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Loops:
    """The running loops."""

    bell: Bell
    _stop: Event
    _threads: tuple[Thread, ...]
    _store: Store
    leadership: Leadership

    def hint(self) -> None:
        """Wake the loops: something was submitted or has ended."""
        self.bell.ring()

    def stop(self, *, timeout_s: float = 10) -> None:
        """End after the ticks under way, or without them once ``timeout_s`` is over, and hand the lease over."""
        self._stop.set()
        self.bell.ring()
        end_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        LOOPS.leads.set(0)
        try:
            self.leadership.release()
        except Unavailable as error:
            logger.warning("the lease was not released; it will expire", reason=str(error))
        if self.leadership.store is not self._store:
            self.leadership.store.close()


def start(
    store: Store,
    settings: ControlSettings,
    *,
    clock: Clock | None = None,
    manifests: Mapping[str, Manifest] | None = None,
    is_sole: bool = False,
    bell: Bell | None = None,
) -> Loops:
    """Start the loops in threads of this process; they work while it holds the lease.

    ``is_sole``: the caller holds the file lock that keeps other servers of this database out. ``bell``: rung by whoever
    has something for the loops, and by the loops; absent: one that nobody else hears.
    """
    clock = clock or SystemClock()
    manifests = find_manifests() if manifests is None else manifests
    stop, bell = Event(), bell or Bell()
    leadership = Leadership(store=beside(store), clock=clock, is_sole=is_sole, ttl_s=settings.control_ttl_s)
    threads = [Thread(target=_lead, args=(stop, bell, leadership), name="lead", daemon=True)]
    made = _loops(clock, settings, manifests)
    LOOPS.expect(made)
    for name, make in made.items():
        term = Term(leadership=leadership)
        tick, idle_s = make(store.fenced(term.check), term), REAP_S if name == "reap" else settings.idle_s
        chained = _ringing(tick, bell) if name in RINGING else tick
        options = {"name": name, "idle_s": idle_s, "wake": bell.listener(), "may_run": term.begin}
        threads.append(Thread(target=run_until, args=(stop, chained), kwargs=options, name=name, daemon=True))
    for thread in threads:
        thread.start()
    return Loops(bell=bell, _stop=stop, _threads=tuple(threads), _store=store, leadership=leadership)


def _loops(
    clock: Clock, settings: ControlSettings, manifests: Mapping[str, Manifest]
) -> dict[str, Callable[[Store, Term], Tick]]:
    """How each loop is made: over a store of its own, which lets it write during its term only."""
    common: dict[str, Any] = {"clock": clock, "settings": settings}
    return {
        "dispatch": lambda store, term: Dispatch(store=store, manifests=manifests, term=term, **common),
        "settle": lambda store, _: Settle(store=store, **common),
        "evaluate": lambda store, _: Evaluate(store=store, **common),
        "record": lambda store, term: Record(store=store, require_lead=term.require, **common),
        "verify": lambda store, term: Verify(store=store, require_lead=term.require, **common),
        "deliver": lambda store, term: Deliver(store=store, require_lead=term.require, **common),
        "reap": lambda store, _: Reap(store=store, **common),
    }


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
    was_leading = False
    while not stop.is_set():
        try:
            is_leading = leadership.renew()
            if is_leading != was_leading:
                logger.info("leading" if is_leading else "following", epoch=leadership.epoch)
                bell.ring()
            was_leading = is_leading
        except Unavailable as error:
            logger.warning("the lease could not be renewed", reason=str(error))
        except Exception:  # a database in a state nobody thought of: without this thread no loop would ever run again
            logger.exception("the lease could not be renewed")
        LOOPS.leads.set(leadership.is_held)
        stop.wait(leadership.renew_s if leadership.is_held else min(FOLLOW_S, leadership.renew_s))
