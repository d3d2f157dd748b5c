"""The client: finds the API, submits specs with their code, and hands out experiments."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fairlead import bundle
from fairlead.client.access import Access
from fairlead.client.experiment import Experiment, pages
from fairlead.client.stack import find_stack, read_token
from fairlead.client.transport import Transport
from fairlead.client.webhooks import Webhooks
from fairlead.errors import BadSpec, Conflict, NotFound, Problem
from fairlead.lockfile import ADVICE, read_lock
from fairlead.protocol import from_answer
from fairlead.representation import (
    BundleView,
    ClusterView,
    ExperimentDetail,
    ExperimentView,
    LossDeclaration,
    ModelVersionView,
    NodeExclusion,
    NodeView,
    PlanView,
    QueueView,
    QuotaView,
    RegistryFlagsView,
    VersionView,
    WhoAmI,
    WhyView,
    WorkloadView,
)
from fairlead.settings import ClientSettings, data_directory
from fairlead.spec import EvaluationRequest, ExperimentSpec, evaluation_request, from_mapping
from fairlead.spec.document import load_yaml

SpecLike = ExperimentSpec | Mapping[str, Any] | str | Path
"""A spec, its content as a mapping, or the path of its YAML or JSON file."""


class Client:
    """Talks to one Fairlead API. Safe to share between threads; close it, or use it with ``with``.

    ``url`` and ``token`` come from the arguments, else from ``FAIRLEAD_URL`` and ``FAIRLEAD_TOKEN``, else from the
    embedded stack that runs in ``home`` (``FAIRLEAD_HOME``, else the user's data directory). Raises ``Unavailable``
    where no stack runs. A token of the embedded stack is never sent to another address.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, home: str | Path | None = None) -> None:
        url, token = _address(url, token, Path(home) if home else None)
        self.transport = Transport(url, token)
        self.webhooks = Webhooks(self.transport)
        self.access = Access(self.transport)

    @property
    def url(self) -> str:
        """The API's address."""
        return self.transport.url

    def close(self) -> None:
        """Let the connections go."""
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, spec: SpecLike, *, code: str | Path | None = None, key: str | None = None) -> Experiment:
        """Create an experiment, uploading its code first. Returns at once; see ``Experiment.result``.

        ``code``: a directory that replaces the spec's own; a relative one in a spec file is meant from that file.
        ``key``: an idempotency key; the same key and spec give the same experiment. Raises ``BadSpec`` with a problem
        per field, ``BadBundle``, ``TooMany``, ``Unauthorized`` or ``Unavailable``.
        """
        document = self._ready(spec, code)
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        answer = self.transport.request("POST", "/v1/experiments", headers=headers, document=document)
        return Experiment(self.transport, from_answer(ExperimentDetail, answer.content))

    def evaluate(
        self, request: EvaluationRequest | Mapping[str, Any] | str | Path, *, key: str | None = None
    ) -> Experiment:
        """Have predictions that were made elsewhere evaluated on a cluster: an experiment that trains nothing.

        ``request``: an ``EvaluationRequest``, its content as a mapping, or the path of its YAML or JSON file; in a file
        a relative ``uri`` is meant from there. ``key``: as for ``submit``. Raises ``BadSpec`` with a problem per field,
        ``TooMany``, ``NotFound`` for a project, ``Unauthorized`` or ``Unavailable``.
        """
        document, base = read_request(request)
        document = document.amended(uri=_located(document.uri, base))
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        content = document.model_dump(mode="json", by_alias=True)
        answer = self.transport.request("POST", "/v1/evaluations", headers=headers, document=content)
        return Experiment(self.transport, from_answer(ExperimentDetail, answer.content))

    def plan(self, spec: SpecLike, *, code: str | Path | None = None) -> PlanView:
        """What would become of ``spec``: is it valid, does it fit, who is ahead? Nothing is queued."""
        answer = self.transport.request("POST", "/v1/plan", document=self._ready(spec, code))
        return from_answer(PlanView, answer.content)

    def get(self, experiment_id: str) -> Experiment:
        """An experiment by its id. Raises ``NotFound``."""
        answer = self.transport.request("GET", f"/v1/experiments/{experiment_id}")
        return Experiment(self.transport, from_answer(ExperimentDetail, answer.content))

    def list(self, *, state: str | None = None, project: str | None = None, limit: int = 50) -> Iterator[Experiment]:
        """Experiments, newest first, page after page as they are asked for. ``limit``: of one page."""
        params = {"limit": str(limit)}
        params |= {name: f"eq:{value}" for name, value in (("state", state), ("project", project)) if value}
        views = pages(self.transport, ExperimentView, "/v1/experiments", params)
        return (Experiment(self.transport, view) for view in views)

    def queue(self, *, project: str | None = None, limit: int = 50) -> QueueView:
        """The first ``limit`` that wait, in order, with reasons and estimates. Raises ``NotFound`` for a project."""
        path = "/v1/queue" if project is None else f"/v1/projects/{project}/queue"
        return from_answer(QueueView, self.transport.request("GET", path, params={"limit": str(limit)}).content)

    def why(self, experiment_id: str) -> WhyView:
        """Why an experiment is not running: reason, position, who is ahead, an estimate. Raises ``NotFound``."""
        return from_answer(WhyView, self.transport.request("GET", f"/v1/experiments/{experiment_id}/why").content)

    def quota(self, project: str) -> QuotaView:
        """What a project may hold at once, what it holds and what it has used. Raises ``NotFound``."""
        return from_answer(QuotaView, self.transport.request("GET", f"/v1/projects/{project}/quota").content)

    def set_quota(self, project: str, **limits: float | None) -> QuotaView:
        """Set limits: ``workers``, ``cpus``, ``gpus``, ``experiments``, ``weight``; None takes one away, what is not
        named stays. Raises ``NotFound``, ``BadSpec``.
        """
        answer = self.transport.request("PATCH", f"/v1/projects/{project}/quota", document=limits)
        return from_answer(QuotaView, answer.content)

    def models(
        self, *, project: str | None = None, name: str | None = None, limit: int = 50
    ) -> Iterator[ModelVersionView]:
        """Registered model versions, newest first, page after page as they are asked for. ``limit``: of one page."""
        params = {"limit": str(limit)}
        params |= {key: f"eq:{value}" for key, value in (("project", project), ("name", name)) if value}
        return pages(self.transport, ModelVersionView, "/v1/models", params)

    def registry_flags(self) -> RegistryFlagsView:
        """What in MLflow's registry is not what was registered, and when that was last looked at."""
        return from_answer(RegistryFlagsView, self.transport.request("GET", "/v1/models/flags").content)

    def workloads(self) -> tuple[WorkloadView, ...]:
        """The built-in training programs and their parameters."""
        return tuple(pages(self.transport, WorkloadView, "/v1/workloads", {}))

    def workload(self, name: str) -> WorkloadView:
        """One training program. Raises ``NotFound``."""
        return from_answer(WorkloadView, self.transport.request("GET", f"/v1/workloads/{name}").content)

    def clusters(self) -> tuple[ClusterView, ...]:
        """The Ray clusters that ever attached, and why one gets no work."""
        return tuple(pages(self.transport, ClusterView, "/v1/clusters", {}))

    def drain(self, cluster: str) -> ClusterView:
        """No new work for a cluster; what runs there goes on to its end. Raises ``NotFound``."""
        return self._change_cluster(cluster, "drain")

    def activate(self, cluster: str) -> ClusterView:
        """Work for a cluster again, after it was drained, suspected or retired. Raises ``NotFound``."""
        return self._change_cluster(cluster, "activate")

    def label(self, cluster: str, **labels: str | None) -> ClusterView:
        """Say what a cluster is, for ``resources.labels`` to ask for; None takes a label away, others stay.

        Raises ``NotFound``, ``BadSpec``.
        """
        answer = self.transport.request("PATCH", f"/v1/clusters/{cluster}", document={"labels": labels})
        return from_answer(ClusterView, answer.content)

    def retire(self, cluster: str, *, reason: str, force: bool = False) -> ClusterView:
        """Vouch for a cluster's end: its open attempts are declared lost.

        ``force``: even though its agent answers and has open attempts; without it that raises ``Conflict``.
        """
        return self._change_cluster(cluster, "retire", LossDeclaration(reason=reason, force=force))

    def nodes(self, cluster: str | None = None) -> tuple[NodeView, ...]:
        """The nodes of a cluster, or of all, and which of them get no workers. Raises ``NotFound``."""
        names = [cluster] if cluster is not None else [one.name for one in self.clusters()]
        return tuple(
            node for name in names for node in pages(self.transport, NodeView, f"/v1/clusters/{name}/nodes", {})
        )

    def exclude_node(self, node: str, *, why: str, cluster: str | None = None) -> NodeView:
        """No more workers for a node; what runs there goes on. ``node``: its id, or a beginning that no other has.

        Raises ``NotFound``, ``Conflict`` where several begin so.
        """
        return self._change_node(node, cluster, "exclude", NodeExclusion(reason=why))

    def readmit_node(self, node: str, *, cluster: str | None = None) -> NodeView:
        """Workers for a node again: what died there before counts no more. Raises like ``exclude_node``."""
        return self._change_node(node, cluster, "readmit")

    def _change_node(self, node: str, cluster: str | None, verb: str, given: NodeExclusion | None = None) -> NodeView:
        meant = _one_node(node, self.nodes(cluster))
        path = f"/v1/clusters/{meant.cluster}/nodes/{meant.node_id}/{verb}"
        answer = self.transport.request("POST", path, document=given.model_dump() if given else None)
        return from_answer(NodeView, answer.content)

    def _change_cluster(self, name: str, verb: str, given: LossDeclaration | None = None) -> ClusterView:
        document = given.model_dump() if given else None
        answer = self.transport.request("POST", f"/v1/clusters/{name}/{verb}", document=document)
        return from_answer(ClusterView, answer.content)

    def upload(self, directory: str | Path, *, project: str = "default") -> BundleView:
        """Upload a directory of code for a project, unless it has it already. Raises ``BadBundle``, ``NotFound``."""
        return self._send(bundle.pack(Path(directory)), project)

    def upload_lock(self, path: str | Path, *, project: str = "default") -> BundleView:
        """Upload the lock file of an environment for a project, unless it has it already.

        Raises ``BadSpec`` with the lines that pin nothing, ``NotFound`` for a project.
        """
        content = _lock_at(Path(path))
        return self._send(bundle.pack_file("requirements.lock", content), project)

    def _send(self, packed: bundle.Bundle, project: str) -> BundleView:
        path = f"/v1/code-bundles/{packed.sha256}"
        params = {"project": project}
        if self.transport.request("HEAD", path, params=params, tolerates=(404,)).status_code == 200:
            return BundleView(sha256=packed.sha256, size=len(packed.content), is_new=False)
        headers = {"Content-Type": "application/zip", "X-Content-SHA256": packed.sha256}
        content = packed.content
        answer = self.transport.request("POST", "/v1/code-bundles", params=params, headers=headers, content=content)
        return from_answer(BundleView, answer.content)

    def version(self) -> VersionView:
        """What is running there."""
        return from_answer(VersionView, self.transport.request("GET", "/v1/version").content)

    def whoami(self) -> WhoAmI:
        """Whose token this is. Raises ``Unauthorized``."""
        return from_answer(WhoAmI, self.transport.request("GET", "/v1/whoami").content)

    def _ready(self, spec: SpecLike, code: str | Path | None) -> dict[str, Any]:
        """The spec as the API takes it: validated, its code and its lock uploaded, its data's path absolute."""
        document, base = read_spec(spec)
        directory = Path(code) if code is not None else _code_of(document, base)
        if directory is not None:
            document = document.amended(code=f"sha256:{self.upload(directory, project=document.project).sha256}")
        if document.environment is not None and not document.environment.requirements.startswith("sha256:"):
            sent = self.upload_lock(base / document.environment.requirements, project=document.project)
            document = document.amended(environment={"requirements": f"sha256:{sent.sha256}"})
        if document.data.is_there:
            document = document.amended(data=document.data.amended(uri=_located(document.data.uri, base)))
        return document.model_dump(mode="json", by_alias=True)


def read_spec(spec: SpecLike) -> tuple[ExperimentSpec, Path]:
    """The validated spec, and the directory that its relative paths are meant from. Raises ``BadSpec``."""
    if isinstance(spec, ExperimentSpec):
        return spec, Path.cwd()
    if isinstance(spec, Mapping):
        return from_mapping(ExperimentSpec, spec), Path.cwd()
    path = Path(spec)
    return from_mapping(ExperimentSpec, _yaml_of(path)), path.absolute().parent


def read_request(request: EvaluationRequest | Mapping[str, Any] | str | Path) -> tuple[EvaluationRequest, Path]:
    """The validated request, and the directory that a relative address is meant from. Raises ``BadSpec``."""
    if isinstance(request, EvaluationRequest):
        return request, Path.cwd()
    if isinstance(request, Mapping):
        return evaluation_request(request), Path.cwd()
    path = Path(request)
    return evaluation_request(_yaml_of(path)), path.absolute().parent


def _yaml_of(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BadSpec(f"the spec {path} cannot be read: {reason}") from error
    return load_yaml(text)


def _lock_at(path: Path) -> bytes:
    """The lock file. Raises ``BadSpec`` where it cannot be read or pins nothing, with file and line."""
    pointer = "/environment/requirements"
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"the lock file {path} cannot be read: {error.strerror}"
        raise BadSpec(
            f"{message}; {ADVICE}", problems=(Problem(pointer=pointer, message=message, suggestion=ADVICE),)
        ) from error
    flaws = read_lock(content).flaws
    if flaws:
        problems = tuple(
            Problem(pointer=pointer, message=f"{path.name}, {flaw}", suggestion=flaw.suggestion) for flaw in flaws
        )
        hint = f"; {flaws[0].suggestion}" if flaws[0].suggestion else ""
        raise BadSpec(f"{path.name}, {flaws[0]}{hint}", problems=problems)
    return content


def _one_node(node: str, among: Sequence[NodeView]) -> NodeView:
    """The node with this id, or the only one whose id begins so. Raises ``NotFound``, ``Conflict``."""
    exact = [one for one in among if one.node_id == node]
    found = exact or [one for one in among if node and one.node_id.startswith(node)]
    if not found:
        raise NotFound(f"no node's id begins with {node!r}; 'fairlead nodes' shows which there are")
    if len(found) > 1:
        raise Conflict(f"the ids of {len(found)} nodes begin with {node!r}: write more of it, or name the cluster")
    return found[0]


def _code_of(document: ExperimentSpec, base: Path) -> Path | None:
    if document.code is None or document.code.startswith("sha256:"):
        return None
    return base / document.code


def _located(uri: str, base: Path) -> str:
    """A plain relative path that exists beside the spec becomes absolute; the server has another directory."""
    if "://" in uri or Path(uri).is_absolute() or not (base / uri).exists():
        return uri
    return str((base / uri).resolve())


def _address(url: str | None, token: str | None, home: Path | None) -> tuple[str, str | None]:
    settings = ClientSettings()
    url = url or (settings.url if home is None else None)
    if url is not None:
        return url, token or (settings.token.get_secret_value() if settings.token else None)
    directory = data_directory(home)
    return find_stack(directory).api_url, token or read_token(directory)
