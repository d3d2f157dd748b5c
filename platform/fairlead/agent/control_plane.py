"""The agent's side of ``/internal/v1``: typed calls with time limits, errors as Fairlead's own.

Every call may be repeated. ``Unavailable`` means "nobody knows whether it arrived": look again, do not guess.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

import httpx
import tenacity

from fairlead.errors import (
    BadInput,
    FairleadError,
    NotFound,
    StaleAgent,
    StaleAttempt,
    Unauthorized,
    Unavailable,
    WrongOffset,
)
from fairlead.protocol import (
    MAX_TRIALS_A_PAGE,
    AttachAnswer,
    AttachRequest,
    Batch,
    BatchAnswer,
    CheckpointCommit,
    LaunchDocument,
    LeaseRequest,
    ResultClaim,
    StartedReport,
    SyncAnswer,
    SyncRequest,
    TrialsAnswer,
    from_answer,
)
from fairlead.spec import Document, ExperimentSpec

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 20.0
_TRIES = 3
_MAX_BUNDLE_BYTES = 64 * 1024 * 1024
_BY_CODE: dict[str, type[FairleadError]] = {
    StaleAgent.code: StaleAgent,
    StaleAttempt.code: StaleAttempt,
    Unauthorized.code: Unauthorized,
    NotFound.code: NotFound,
}
D = TypeVar("D", bound=Document)


class Leased(Document):
    """The part of a launch document by which a lease is kept, whatever the rest asks for."""

    attempt_id: str
    experiment_id: str
    attempt_no: int
    runner_name: str
    attempt_token: str
    storage_path: str


class BeyondThisRelease(BadInput):
    """An attempt was leased, but asks for what this release does not know: to leave that out would train another."""

    def __init__(self, error: BadInput, leased: Leased) -> None:
        super().__init__(f"the agent's release cannot carry out this spec: {error}", problems=error.problems)
        self.leased = leased


class ControlPlane:
    """A connection to the control plane; safe to use from several threads."""

    def __init__(self, url: str, *, agent_token: str) -> None:
        limits = httpx.Limits(max_connections=32)
        timeout = httpx.Timeout(_ANSWER_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        self._client = httpx.Client(base_url=f"{url.rstrip('/')}/internal/v1", timeout=timeout, limits=limits)
        self._agent_token = agent_token

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    # ---- with the agent's token ----

    def attach(self, request: AttachRequest) -> AttachAnswer:
        """Become this cluster's agent; older ones are fenced off from now on."""
        return self._ask("/agent/attach", request, AttachAnswer, token=self._agent_token)

    def sync(self, request: SyncRequest) -> SyncAnswer:
        """Report, and learn what to do; waits up to ``request.wait_s`` at the server."""
        timeout_s = _ANSWER_TIMEOUT_S + request.wait_s
        return self._ask("/agent/sync", request, SyncAnswer, token=self._agent_token, timeout_s=timeout_s)

    def lease(self, attempt_id: str, request: LeaseRequest) -> LaunchDocument:
        """Take an offered attempt. Raises ``BeyondThisRelease`` with a lease that must be given back."""
        content = self._send(f"/attempts/{attempt_id}/lease", request, token=self._agent_token)
        try:
            document = from_answer(LaunchDocument, content)
            from_answer(ExperimentSpec, json.dumps(json.loads(content)["spec"]), is_closed=True)
        except BadInput as error:
            raise BeyondThisRelease(error, from_answer(Leased, content)) from error
        return document

    # ---- with an attempt's token ----

    def started(self, attempt_id: str, report: StartedReport, *, token: str) -> None:
        """Say that the runner has begun."""
        self._send(f"/attempts/{attempt_id}/started", report, token=token)

    def ship(self, attempt_id: str, batch: Batch, *, token: str) -> int:
        """Hand over consecutive records; returns the next expected offset. Raises ``WrongOffset``."""
        return self._ask(f"/attempts/{attempt_id}/batches", batch, BatchAnswer, token=token).next_offset

    def commit(self, attempt_id: str, commit: CheckpointCommit, *, token: str) -> None:
        """Make a checkpoint visible."""
        self._send(f"/attempts/{attempt_id}/checkpoints", commit, token=token)

    def claim(self, attempt_id: str, claim: ResultClaim, *, token: str) -> None:
        """Hand over the result."""
        self._send(f"/attempts/{attempt_id}/result", claim, token=token)

    def trials(self, attempt_id: str, first_no: int, *, token: str) -> TrialsAnswer:
        """A page of the trials that the attempt's sweep has by now, from number ``first_no`` on."""
        query = {"first_no": first_no, "limit": MAX_TRIALS_A_PAGE}
        return from_answer(TrialsAnswer, self._get(f"/attempts/{attempt_id}/trials", query, headers=_bearer(token)))

    def bundle(self, sha256: str, into: Path, *, token: str) -> None:
        """Download a code bundle to the file ``into``."""
        try:
            self._download(f"/code-bundles/{sha256}", into, token)
        except httpx.HTTPError as error:
            raise Unavailable(f"the code bundle {sha256} could not be fetched: {error}") from error

    def _download(self, path: str, into: Path, token: str) -> None:
        with self._client.stream("GET", path, headers=_bearer(token)) as response:
            if response.status_code >= 400:
                response.read()
                raise _error_in(response)
            size = 0
            with open(into, "wb") as file:
                for block in response.iter_bytes():
                    size += len(block)
                    if size > _MAX_BUNDLE_BYTES:
                        raise BadInput(f"the code bundle is larger than {_MAX_BUNDLE_BYTES} bytes")
                    file.write(block)

    def _ask(
        self, path: str, document: Document, answer: type[D], *, token: str, timeout_s: float = _ANSWER_TIMEOUT_S
    ) -> D:
        return from_answer(answer, self._send(path, document, token=token, timeout_s=timeout_s))

    def _send(self, path: str, document: Document, *, token: str, timeout_s: float = _ANSWER_TIMEOUT_S) -> bytes:
        body = document.model_dump_json(by_alias=True).encode()
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
        return self._post(path, body, headers=_bearer(token), timeout=timeout)

    def _post(self, path: str, body: bytes, *, headers: dict[str, str], timeout: httpx.Timeout) -> bytes:
        headers = {**headers, "Content-Type": "application/json"}
        return self._call(self._client.build_request("POST", path, content=body, headers=headers, timeout=timeout))

    def _get(self, path: str, query: dict[str, int], *, headers: dict[str, str]) -> bytes:
        return self._call(self._client.build_request("GET", path, params=query, headers=headers))

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(Unavailable),
        stop=tenacity.stop_after_attempt(_TRIES),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=2),
        reraise=True,
    )
    def _call(self, request: httpx.Request) -> bytes:
        try:
            response = self._client.send(request)
        except httpx.HTTPError as error:
            raise Unavailable(f"the control plane does not answer: {type(error).__name__}: {error}") from error
        if response.status_code >= 400:
            raise _error_in(response)
        return response.content


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _error_in(response: httpx.Response) -> FairleadError:
    """The error that a problem+json answer stands for."""
    problem = _problem(response)
    message = str(problem.get("detail") or problem.get("title") or f"HTTP {response.status_code}")
    code = str(problem.get("code", ""))
    if code == WrongOffset.code and isinstance(problem.get("expected"), int):
        return WrongOffset(message, expected=problem["expected"])
    if known := _BY_CODE.get(code):
        return known(message)
    if response.status_code >= 500 or response.status_code in (408, 429):
        return Unavailable(f"the control plane cannot answer now: {message}")
    return BadInput(f"the control plane refuses this ({response.status_code} {code}): {message}")


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
