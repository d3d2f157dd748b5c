"""What an agent reads and writes in an attempt's directory: who has begun, and the result."""

import hashlib
import json
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from fairlead.lifecycle import Outcome
from fairlead.protocol import BEGUN_FILE, RESULT_FILE, ResultClaim, ResultDocument
from fairlead.run.storage import create_exclusively, write_atomically


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """Which runner has begun the attempt. ``ray_session`` is empty and the time-out infinite where not known."""

    ray_session: str = ""
    node_id: str = ""
    pid: int = 0
    stall_timeout_s: float = math.inf


def read_begun(attempt: Path) -> Begun | None:
    """Who has begun, or None. A file that was cut short still says that somebody has."""
    try:
        content = json.loads((attempt / BEGUN_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return Begun()
    if not isinstance(content, dict):
        return Begun()
    return Begun(
        ray_session=str(content.get("ray_session", "")),
        node_id=str(content.get("node_id", "")),
        pid=int(content.get("pid", 0)),
        stall_timeout_s=float(content.get("stall_timeout_s", math.inf)),
    )


def has_result(attempt: Path) -> bool:
    """Whether there is a result, be it valid or not."""
    return (attempt / RESULT_FILE).exists()


def read_claim(attempt: Path) -> ResultClaim | None:
    """The result with its digest, or None: a file that does not validate is no result."""
    try:
        content = (attempt / RESULT_FILE).read_bytes()
        result = ResultDocument.model_validate_json(content)
    except (FileNotFoundError, ValidationError):
        return None
    return ResultClaim(result=result, result_sha256=hashlib.sha256(content).hexdigest())


def write_result_unless_begun(attempt: Path, result: ResultDocument) -> bool:
    """Take the attempt's beginning and end it at once; False if a runner was quicker."""
    attempt.mkdir(parents=True, exist_ok=True)
    if not create_exclusively(attempt / BEGUN_FILE, b'{"by": "agent"}'):
        return False
    write_atomically(attempt / RESULT_FILE, result.model_dump_json(indent=1).encode())
    return True


def result_without_a_run(
    *, experiment_id: str, attempt_no: int, outcome: Outcome, reason: str, detail: str, now: datetime
) -> ResultDocument:
    """The result of an attempt that never began."""
    return ResultDocument(
        experiment_id=experiment_id,
        attempt_no=attempt_no,
        outcome=outcome,
        reason=reason,
        detail=detail,
        started_at=now,
        ended_at=now,
    )
