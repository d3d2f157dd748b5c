"""Puts the API together. Nothing is mounted beside the one router, whose root asks for a token."""

from collections.abc import Mapping

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from fairlead import __version__
from fairlead.clock import Clock, SystemClock
from fairlead.data.manifests import find_manifests
from fairlead.errors import FairleadError
from fairlead.secret_key import read_secret
from fairlead.settings import ControlSettings
from fairlead.spec import Manifest
from fairlead.store import Store
from fairlead.store.bell import Bell
from fairlead_api.access import authorize
from fairlead_api.audits import witness_of
from fairlead_api.board import Board
from fairlead_api.crowd import Crowd
from fairlead_api.edge import Edge
from fairlead_api.guesses import Guesses
from fairlead_api.meters import Meters
from fairlead_api.openapi import describe
from fairlead_api.parts import Api
from fairlead_api.problems import on_bad_parameters, on_fairlead_error, on_http_error
from fairlead_api.routes import (
    agents,
    amendments,
    attempts,
    audit,
    clusters,
    derived,
    docs,
    experiments,
    links,
    models,
    nodes,
    overrides,
    progress,
    projects,
    server,
    tokens,
    trials,
    turns,
    webhooks,
    workloads,
)
from fairlead_api.streams import Streams
from fairlead_api.uses import Uses
from fairlead_api.watch import Watch


def create_app(
    settings: ControlSettings,
    store: Store,
    *,
    clock: Clock | None = None,
    manifests: Mapping[str, Manifest] | None = None,
    bell: Bell | None = None,
) -> FastAPI:
    """The API over ``store``. ``bell`` is rung after whatever the control loops should look at soon, and heard.

    Raises ``BadInput`` where the secret key file is missing or too short.
    """
    clock = clock or SystemClock()
    api = Api(
        settings=settings,
        store=store.witnessed(witness_of(clock)),
        clock=clock,
        manifests=find_manifests() if manifests is None else manifests,
        bell=bell or Bell(),
        secret=read_secret(settings.secret_key_file),
        board=Board(store=store, settings=settings),
        guesses=Guesses(settings.max_bad_tokens),
        uses=Uses(store),
        crowd=Crowd(clock),
    )
    app = FastAPI(
        title="Fairlead",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(authorize)],
    )
    streams = Streams()
    meters = Meters(api, streams)
    app.state.api, app.state.streams, app.state.watch = api, streams, Watch(api)
    app.state.meters, app.state.told = meters, {}
    people = (tokens, projects, audit)
    sweeps = (trials, amendments, derived)
    users = (
        *(experiments, *sweeps, turns, clusters, nodes, progress, overrides, models, links, workloads, webhooks),
        *people,
    )
    for module in (*users, server, agents, attempts, docs):
        app.include_router(module.router)
    app.add_exception_handler(FairleadError, on_fairlead_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_bad_parameters)
    app.add_middleware(Edge, allowed_hosts=settings.allowed_hosts, observe=meters.observe)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    return app
