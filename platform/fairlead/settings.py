"""Settings of every process, from environment variables ``FAIRLEAD_*``; nothing is read from user input.

``data_directory()`` is where the embedded stack and a client on the same machine meet.
"""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fairlead.journal import Format

_CONFIG = SettingsConfigDict(env_prefix="FAIRLEAD_", extra="ignore", frozen=True, use_attribute_docstrings=True)


def _split(value: Any) -> Any:
    """A list written as one text, as environment variables have it."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


class ClientSettings(BaseSettings):
    """Where a client finds the API."""

    model_config = _CONFIG

    url: str | None = None
    """Address of the API; absent: the embedded stack of ``home``."""
    token: SecretStr | None = None
    home: Path | None = None
    """Data directory of the embedded stack."""


def names_of(error: ValidationError) -> str:
    """The variables of the environment that are missing or wrong, for people."""
    return ", ".join("FAIRLEAD_" + ".".join(map(str, one["loc"])).upper() for one in error.errors())


class LogSettings(BaseSettings):
    """How an api, control or agent process writes its log."""

    model_config = _CONFIG

    log_format: Format | None = None
    """``json`` or ``text``; absent: what suits the process, which is JSON for the api and text for the others."""
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = "INFO"


class DataSettings(BaseSettings):
    """What a node keeps of data that stay on disk while a model trains on them (``data.streaming``)."""

    model_config = _CONFIG

    data_cache: Path | None = None
    """Where; absent: below the user's cache directory."""
    data_cache_gb: float = Field(default=50, ge=0)
    """How much; beyond it what was used longest ago is deleted."""


class DatabaseSettings(BaseSettings):
    """What migrations need."""

    model_config = _CONFIG

    database_url: str
    """``sqlite:////path/to/file`` or ``postgresql+psycopg://user@host/name``, its password in ``PGPASSWORD``."""


class ControlSettings(DatabaseSettings):
    """The api process and the control loops."""

    storage: Path
    """The shared storage: attempts, checkpoints, models, logs, code bundles."""
    mlflow_url: str
    """Where the recorder writes."""
    mlflow_public_url: str | None = None
    """The same server as a browser sees it; absent: ``mlflow_url``."""
    public_url: str = "http://127.0.0.1:8170"
    host: str = "127.0.0.1"
    port: int = 8170
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ("127.0.0.1", "localhost")
    """Exact Host headers, separated by commas in the environment."""
    secret_key_file: Path
    """32 random bytes or more: signs links and cursors. The server refuses to start without it."""
    tokens_file: Path | None = None
    """JSON made by ``fairlead up``: token hashes to accept from the first start (user, agent)."""
    agent_ttl_s: float = 30
    """An agent silent for this long is stale."""
    offer_ttl_s: float = 60
    stop_bound_s: float = 60
    """An attempt that is still there so long after its grace to stop makes its experiment held."""
    ray_session_grace_s: float = 75
    """After another Ray session was seen: Ray's reconnect time-out (60 s) and 15 s."""
    control_ttl_s: float = Field(default=15, ge=1)
    """A leader of the control loops that has not renewed its lease for this long is succeeded by another process."""
    launches_per_cluster: int = 2
    half_life_s: float = Field(default=86_400, gt=0)
    """After so long a project's use counts half when the queue is ordered."""
    patience_s: float = Field(default=259_200, gt=0)
    """Who has waited longer counts as of the highest priority that waits."""
    max_preemptions: int = Field(default=3, ge=0)
    """How often an experiment may be stopped for a more urgent one; 0: nobody is."""
    idle_s: float = 2.0
    """How long a loop rests when a tick found nothing to do."""
    max_queued: int = Field(default=10_000, ge=1)
    registry_check_s: float = Field(default=60, ge=1)
    """How long after a comparison of MLflow's registry with what was registered the next one begins."""
    webhook_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_split)] = ()
    """Networks that webhooks may reach though they are not public, separated by commas; loopback also by plain http."""
    webhook_ca_file: Path | None = None
    """Certificates, in PEM, that webhooks' receivers may have beside the publicly trusted ones."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    """Where a control process shows Prometheus what its loops count, to whoever asks; absent: nowhere."""
    max_bad_tokens: int = Field(default=30, ge=1)
    """So many wrong tokens a minute from one address; then it is answered 429 until the minute is over."""


class AgentSettings(BaseSettings):
    """The agent of one Ray cluster."""

    model_config = _CONFIG

    control_url: str
    agent_token_file: Path
    cluster: str = "local"
    ray_address: str
    """Explicit ``host:port`` of the head; never ``auto``, which may find a stranger's cluster."""
    storage: Path
    cache: Path
    """Code bundles, unpacked by content hash."""
    environments: Path | None = None
    """Where each node keeps the environments it has built, the same path on every node and on a disk of its own;
    absent: below the user's cache directory."""
    environment_build_s: float = Field(default=900, gt=0)
    """After so long a build of an environment is given up, and the attempt fails."""
    environments_gb: float = Field(default=20, ge=0)
    """What a node keeps of environments; beyond it those that were used longest ago are deleted, never one in use."""
    warm_start: bool = True
    """Fork runners and workers from a server with Ray and torch imported, instead of importing them each time."""
    warm_directory: Path | None = None
    """Where launchers and warm servers meet, the same path on every node; absent: one for this cluster below /tmp."""
    sync_wait_s: float = 2.0
    worker_start_timeout_s: float = 120
    tick_s: float = Field(default=1.0, gt=0)
    """How often each attempt is looked after."""
    evidence_gap_s: float = Field(default=10, ge=0)
    """Time between the two sightings of an absence that make it evidence."""
    node_grace_s: float = Field(default=75, ge=0)
    """After Ray's head has given up a node of an attempt: Ray's reconnect time-out (60 s) and 15 s, as for sessions."""
    stray_after_s: float = Field(default=60, ge=0)
    """A runner of no known attempt is reported after this long, and stopped if the server disowns it."""


def data_directory(home: Path | None = None) -> Path:
    """The embedded stack's directory: ``home``, else ``FAIRLEAD_HOME``, else the user's data directory."""
    return (home or ClientSettings().home or user_data_path("fairlead")).expanduser().absolute()
