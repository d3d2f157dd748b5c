"""What happens while an experiment runs, and what is left of it. Every stream has a plain paged twin."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from fairlead.control.evaluate import report_directory
from fairlead.control.sweeps import SWEEP_JSON, SWEEP_PAGE
from fairlead.errors import BadInput, NotFound, Problem, Unavailable
from fairlead.evaluation.sweep_report import SCHEMA as SWEEP_SCHEMA
from fairlead.lifecycle import State
from fairlead.protocol import TRIALS_DIRECTORY, CheckpointRef
from fairlead.representation import EventView, GateView, MetricsView, Page, ProfileName
from fairlead.search.trials import TrialState
from fairlead.store import attempts, checkpoints, events, experiments, series, trials
from fairlead_api import logs
from fairlead_api.access import Caller
from fairlead_api.openapi import problems
from fairlead_api.pages import MAX_LIMIT, address
from fairlead_api.parts import Api, ApiParts
from fairlead_api.streams import END, PING, PING_S, STREAM_TYPE, Stream, Streams, message
from fairlead_api.views import answer, event_view, experiment_view, metrics_view
from fairlead_api.watch import Watch

router = APIRouter(prefix="/v1/experiments/{experiment_id}", tags=["progress"])
LOG_POLL_S = 0.25
PAGE_OF_EVENTS = 200
NEXT_OFFSET = "Fairlead-Next-Offset"
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
)
ExperimentId = Annotated[str, Path(max_length=64)]
Accept = Annotated[str, Header()]
LastEventId = Annotated[str | None, Header(max_length=60)]


def _streams(request: Request) -> tuple[Streams, Watch]:
    return request.app.state.streams, request.app.state.watch


# ---- events ---------------------------------------------------------------------------------------------------------


@router.get(
    "/events",
    operation_id="listEvents",
    summary="What happened to it, in order",
    response_model=Page[EventView],
    responses={200: {"content": {STREAM_TYPE: {}}}, **problems(404, 422, 429)},
)
async def list_events(
    request: Request,
    api: ApiParts,
    caller: Caller,
    experiment_id: ExperimentId,
    after: Annotated[int, Query(ge=0, lt=2**31, description="Only events with a higher `seq`.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = PAGE_OF_EVENTS,
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> Response:
    """Paged; with ``Accept: text/event-stream`` live until the experiment has ended, then a last event ``end``."""
    page = await asyncio.to_thread(events_page, api, experiment_id, after, limit)
    if STREAM_TYPE not in accept:
        return answer(page)
    streams, watch = _streams(request)
    since = _seq(last_event_id) if last_event_id else after
    source = _follow_events(api, watch, experiment_id, since, heard=streams.lag.observe)
    return Stream(source, streams=streams, caller=caller.token_id)


def events_page(api: Api, experiment_id: str, after: int, limit: int) -> Page[EventView]:
    """Events behind ``after``."""
    with api.store.read() as session:
        experiments.get(session, experiment_id)
        rows = events.after(session, experiment_id, after, limit=limit + 1)
    items = tuple(event_view(row) for row in rows[:limit])
    following = None
    if len(rows) > limit:
        query = [("after", str(items[-1].seq)), ("limit", str(limit))]
        following = address(f"/v1/experiments/{experiment_id}/events", query)
    return Page[EventView](items=items, next=following)


def _seq(last_event_id: str) -> int:
    if not last_event_id.isdecimal() or len(last_event_id) > 9:
        raise BadInput("Last-Event-ID must be the `seq` of an event")
    return int(last_event_id)


async def _follow_events(
    api: Api, watch: Watch, experiment_id: str, seq: int, *, heard: Callable[[float], None]
) -> AsyncIterator[bytes]:
    """Events as they come. The connection to the database is given back before anything is sent or awaited.

    ``heard`` is told how old an event was that the stream has waited for; what it catches up with is not told.
    """
    has_waited = False
    while not api.stopping.is_set():
        try:
            found, has_ended = await asyncio.to_thread(_events_since, api, experiment_id, seq)
        except Unavailable:  # the client comes back with Last-Event-ID
            return
        for event in found:
            if has_waited:
                heard(api.age_s(event.at))
            yield message(event.model_dump_json(), message_id=str(event.seq))
            seq = event.seq
        has_waited = False
        if found:
            continue
        if has_ended:
            yield END
            return
        has_waited = await watch.beyond(experiment_id, seq, timeout_s=PING_S)
        if not has_waited:
            yield PING


def _events_since(api: Api, experiment_id: str, seq: int) -> tuple[list[EventView], bool]:
    with api.store.read() as session:
        has_ended = State(experiments.get(session, experiment_id).state).is_final
        found = [event_view(row) for row in events.after(session, experiment_id, seq, limit=PAGE_OF_EVENTS)]
    return found, has_ended


# ---- logs -----------------------------------------------------------------------------------------------------------


@router.get(
    "/logs",
    operation_id="readLogs",
    summary="What a worker printed",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {}, STREAM_TYPE: {}},
            "headers": {NEXT_OFFSET: {"description": "`offset` of what follows", "schema": {"type": "integer"}}},
        },
        **problems(404, 422, 429),
    },
)
async def read_logs(
    request: Request,
    api: ApiParts,
    caller: Caller,
    experiment_id: ExperimentId,
    rank: Annotated[int, Query(ge=0, le=4095)] = 0,
    attempt: Annotated[int | None, Query(ge=1, description="Absent: the newest.")] = None,
    trial: Annotated[
        int | None, Query(ge=0, le=trials.MAX_NO, description="Of a sweep: what this one printed.")
    ] = None,
    tail: Annotated[int | None, Query(ge=0, le=logs.MAX_TAIL_LINES, description="Only the last lines.")] = None,
    offset: Annotated[int | None, Query(ge=0, lt=2**62, description=f"0, or what `{NEXT_OFFSET}` said.")] = None,
    stacks: Annotated[bool, Query(description="What its threads were doing when it stalled, instead.")] = False,
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> Response:
    """At most 1 MiB an answer: the last lines, or what follows ``offset``. With ``Accept: text/event-stream`` live.

    A stream without ``attempt`` goes on with the next attempt, and ends with the experiment. ``stacks`` without
    ``attempt`` are those of the newest attempt that has any. A ``trial`` without ``attempt`` is meant where it ran
    last.
    """
    if stacks:
        return await asyncio.to_thread(stacks_answer, api, experiment_id, rank, attempt)
    if STREAM_TYPE not in accept:
        return await asyncio.to_thread(logs_answer, api, experiment_id, rank, attempt, tail, offset, trial)
    await asyncio.to_thread(_source, api, experiment_id, attempt, None, trial)
    streams, _ = _streams(request)
    position = _position(last_event_id) if last_event_id else None
    follow = _follow_logs(
        api, experiment_id, rank=rank, fixed=attempt, trial=trial, tail=tail, offset=offset, position=position
    )
    return Stream(follow, streams=streams, caller=caller.token_id)


def logs_answer(
    api: Api,
    experiment_id: str,
    rank: int,
    attempt: int | None,
    tail: int | None,
    offset: int | None,
    trial: int | None = None,
) -> Response:
    """One piece of a log as text."""
    source = _source(api, experiment_id, attempt, None, trial)
    if source is None:
        piece = logs.Piece(start=0)
    elif offset is not None:
        piece = logs.read_from(source.directory, rank=rank, offset=offset)
    else:
        piece = logs.read_tail(source.directory, rank=rank, lines=logs.MAX_TAIL_LINES if tail is None else tail)
    headers = {NEXT_OFFSET: str(piece.next_offset)}
    return Response(piece.content, headers=headers, media_type="text/plain; charset=utf-8")


def stacks_answer(api: Api, experiment_id: str, rank: int, attempt: int | None) -> Response:
    """The stacks of one rank as text. Raises ``NotFound`` where none were taken."""
    with api.store.read() as session:
        experiments.get(session, experiment_id)
        rows = attempts.of_experiment(session, experiment_id)
    places = [api.storage / row.storage_path for row in rows if attempt in (None, row.attempt_no)]
    found = next((place for place in reversed(places) if logs.has_stacks(place, rank=rank)), None)
    if found is None:
        raise NotFound(f"rank {rank} of experiment {experiment_id} was not asked for its stacks")
    return Response(logs.read_stacks(found, rank=rank).content, media_type="text/plain; charset=utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class _LogSource:
    """The attempt whose log is read."""

    attempt_no: int
    directory: FilePath
    is_complete: bool
    """Nothing more will be printed here."""
    is_last: bool
    """No attempt follows, now or later."""


def _source(
    api: Api, experiment_id: str, fixed: int | None, following: int | None, trial: int | None = None
) -> _LogSource | None:
    """The attempt ``fixed``; else the first one from ``following`` on; else the newest. None: there is none yet.

    With ``trial`` what that one has printed there, or where it ran last.
    """
    if trial is not None:
        return _source_of_trial(api, experiment_id, trial, fixed)
    with api.store.read() as session:
        row = experiments.get(session, experiment_id)
        rows = attempts.of_experiment(session, experiment_id)
    if fixed is not None:
        rows = [one for one in rows if one.attempt_no == fixed]
        if not rows:
            raise NotFound(f"experiment {experiment_id} has no attempt {fixed}")
    elif following is not None:
        rows = [one for one in rows if one.attempt_no >= following][:1]
    if not rows:
        return None
    chosen = rows[-1]
    has_ended = State(row.state).is_final
    return _LogSource(
        attempt_no=chosen.attempt_no,
        directory=api.storage / chosen.storage_path,
        is_complete=chosen.outcome is not None or has_ended,
        is_last=fixed is not None or (has_ended and chosen.attempt_no >= row.current_attempt_no),
    )


def _source_of_trial(api: Api, experiment_id: str, no: int, fixed: int | None) -> _LogSource:
    with api.store.read() as session:
        row = experiments.get(session, experiment_id)
        trial = trials.find(session, experiment_id, no)
        if trial is None:
            raise NotFound(f"experiment {experiment_id} has no trial {no}")
        if trial.attempt_no == trials.INHERITED_ATTEMPT:
            raise NotFound(f"trial {no} was inherited: the sweep {row.derived_from} has what it printed")
        tries = attempts.of_experiment(session, experiment_id)
    attempt = next((one for one in tries if one.attempt_no == (fixed or trial.attempt_no)), None)
    if attempt is None:
        raise NotFound(f"experiment {experiment_id} has no attempt {fixed}")
    has_ended = trial.state != TrialState.RUNNING or State(row.state).is_final
    return _LogSource(
        attempt_no=attempt.attempt_no,
        directory=api.storage / attempt.storage_path / TRIALS_DIRECTORY / str(no),
        is_complete=attempt.outcome is not None or has_ended,
        is_last=True,
    )


def _position(last_event_id: str) -> tuple[int, int]:
    attempt_no, _, offset = last_event_id.partition(".")
    if not attempt_no.isdecimal() or not offset.isdecimal():
        raise BadInput("Last-Event-ID must be the id of a message of this stream")
    return int(attempt_no), int(offset)


async def _follow_logs(
    api: Api,
    experiment_id: str,
    *,
    rank: int,
    fixed: int | None,
    trial: int | None,
    tail: int | None,
    offset: int | None,
    position: tuple[int, int] | None,
) -> AsyncIterator[bytes]:
    """Whole lines as they come, an attempt after the other."""
    attempt_no, offset = position if position else (None, offset)
    spoke_s = time.monotonic()
    while not api.stopping.is_set():
        try:
            source = await asyncio.to_thread(_source, api, experiment_id, fixed, attempt_no, trial)
            is_over = source is None and await asyncio.to_thread(_has_ended, api, experiment_id)
        except Unavailable:
            return
        if is_over:
            yield END
            return
        if source is not None:
            attempt_no = source.attempt_no
            piece = await asyncio.to_thread(_next_piece, source, rank, offset, tail)
            offset = piece.next_offset
            if content := piece.content:
                text = content.decode(errors="replace").removesuffix("\n")
                yield message(text, message_id=f"{attempt_no}.{offset}")
                spoke_s = time.monotonic()
                continue
            if source.is_complete and source.is_last:
                yield END
                return
            if source.is_complete:
                following = await asyncio.to_thread(_source, api, experiment_id, None, attempt_no + 1)
                if following is not None:
                    attempt_no, offset, tail = following.attempt_no, 0, None
                    continue
        if time.monotonic() - spoke_s >= PING_S:
            yield PING
            spoke_s = time.monotonic()
        await asyncio.sleep(LOG_POLL_S)


def _has_ended(api: Api, experiment_id: str) -> bool:
    with api.store.read() as session:
        return State(experiments.get(session, experiment_id).state).is_final


def _next_piece(source: _LogSource, rank: int, offset: int | None, tail: int | None) -> logs.Piece:
    """From ``offset``, or the last ``tail`` lines to begin with. An unfinished line waits while more may come."""
    if offset is None and tail is not None:
        piece = logs.read_tail(source.directory, rank=rank, lines=tail)
    else:
        piece = logs.read_from(source.directory, rank=rank, offset=offset or 0)
    return piece if source.is_complete else piece.whole_lines()


# ---- numbers and what is left ---------------------------------------------------------------------------------------


@router.get(
    "/metrics",
    operation_id="readMetrics",
    summary="Last values, and series of the metrics asked for",
    response_model=MetricsView,
    responses=problems(404),
)
def metrics(
    api: ApiParts,
    experiment_id: ExperimentId,
    key: Annotated[list[str] | None, Query(max_length=100, description="A metric whose series is wanted.")] = None,
) -> Response:
    """NaN and infinity are null here and named beside it. The full series are MLflow's."""
    with api.store.read() as session:
        row = experiments.get(session, experiment_id)
        found = series.of_experiment(session, experiment_id, tuple(key)) if key else []
    return answer(metrics_view(row, found))


@router.get(
    "/report",
    operation_id="readReport",
    summary="What the evaluation found",
    response_class=Response,
    responses={
        200: {"content": {"application/json": {}, "text/html": {}, "text/markdown": {}}},
        **problems(404, 422),
    },
)
def report(
    api: ApiParts,
    experiment_id: ExperimentId,
    accept: Accept = "application/json",
    profile: Annotated[ProfileName | None, Query(description="Another layout of the same report.")] = None,
) -> Response:
    """JSON, or one self-contained page with ``Accept: text/html``; a profile is Markdown, `cyclonedx` JSON.

    Of a sweep: its trials, the best among them, and what they say of the parameters. It has no profiles.
    """
    if profile is None:
        return report_answer(api, experiment_id, as_page=_prefers_html(accept))
    from fairlead.evaluation.profiles import render_profile  # few ask for one

    content = json.loads(bytes(report_answer(api, experiment_id, as_page=False).body))
    if content.get("schema") == SWEEP_SCHEMA:
        why = "a sweep has no profiles: they are for the report of a trial that was promoted"
        raise BadInput(why, problems=(Problem(pointer="/query/profile", message=why),))
    body, kind = render_profile(content, profile)
    return Response(body, media_type=kind)


def report_answer(api: Api, experiment_id: str, *, as_page: bool) -> Response:
    """The report's file. Raises ``NotFound`` while there is none."""
    with api.store.read() as session:
        row = experiments.get(session, experiment_id)
    content_name, page_name = (SWEEP_JSON, SWEEP_PAGE) if row.spec.get("search") else ("report.json", "report.html")
    path = report_directory(api.storage, row.project, row.id) / (page_name if as_page else content_name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"experiment {experiment_id} has no report; it is {row.state}: {row.reason}") from None
    if as_page:
        return Response(content, headers={"Content-Security-Policy": REPORT_POLICY}, media_type="text/html")
    return Response(content, media_type="application/json")


def _prefers_html(accept: str) -> bool:
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return next((kind == "text/html" for kind in kinds if kind in ("text/html", "application/json")), False)


@router.get(
    "/gates",
    operation_id="listGates",
    summary="Each gate and what became of it",
    response_model=Page[GateView],
    responses=problems(404),
)
def gates(api: ApiParts, experiment_id: ExperimentId) -> Response:
    """Empty until the experiment was evaluated."""
    with api.store.read() as session:
        row = experiments.get(session, experiment_id)
    return answer(Page[GateView](items=experiment_view(row).gates))


@router.get(
    "/checkpoints",
    operation_id="listCheckpoints",
    summary="Committed checkpoints, newest first",
    response_model=Page[CheckpointRef],
    responses=problems(404),
)
def list_checkpoints(api: ApiParts, experiment_id: ExperimentId) -> Response:
    """What a new attempt may resume from; paths are below the root of the shared storage."""
    with api.store.read() as session:
        experiments.get(session, experiment_id)
        rows = checkpoints.newest_first(session, experiment_id)
    items = tuple(CheckpointRef(step=row.step, path=row.path, manifest_sha256=row.manifest_sha256) for row in rows)
    return answer(Page[CheckpointRef](items=items))
