"""Brings an attempt's spool and checkpoints to the control plane: every record once and in order.

The server's offset is the truth. After a restart, a lost answer or a second agent, the first refusal says where to
go on, and the spool still has everything.
"""

from pathlib import Path

import structlog

from fairlead.agent.control_plane import ControlPlane
from fairlead.errors import BadInput, WrongOffset
from fairlead.failpoints import failpoint
from fairlead.protocol import (
    MAX_BATCH_POINTS,
    MAX_TRIAL_RECORDS,
    Batch,
    CheckpointCommit,
    MetricPoint,
    NoteRecord,
    TrialRecord,
)
from fairlead.run.spool import STREAMS, Record, SpoolReader, Stream
from fairlead.run.storage import CompleteCheckpoint, complete_checkpoints

MAX_BATCHES_A_TURN = 20
MAX_REASON = 1000
_AT_ONCE: dict[Stream, int] = {"metrics": MAX_BATCH_POINTS, "notes": MAX_BATCH_POINTS, "trials": MAX_TRIAL_RECORDS}
"""Records of a batch."""
logger = structlog.get_logger(__name__)


class Shipper:
    """One attempt's streams and checkpoints. Used by one thread."""

    def __init__(
        self,
        control: ControlPlane,
        *,
        attempt_id: str,
        token: str,
        attempt: Path,
        storage: Path,
        offsets: dict[str, int],
    ) -> None:
        self._control = control
        self._attempt_id = attempt_id
        self._token = token
        self._attempt = attempt
        self._storage = storage
        self._readers: dict[Stream, SpoolReader] = {stream: SpoolReader(attempt, stream) for stream in STREAMS}
        self._offsets: dict[Stream, int] = {stream: offsets.get(stream, 0) for stream in STREAMS}
        self._refused: set[Stream] = set()
        self._committed: set[int] = set()

    def ship(self) -> bool:
        """Ship what there is, a bounded amount a turn; whether everything has arrived."""
        return all([self._ship_stream(stream) for stream in STREAMS])  # noqa: C419  # every stream gets its turn

    def _ship_stream(self, stream: Stream) -> bool:
        for _ in range(MAX_BATCHES_A_TURN):
            if stream in self._refused:
                return True
            records = self._readers[stream].read(self._offsets[stream], _AT_ONCE[stream])
            if not records:
                return True
            self._ship_batch(stream, records)
        return False

    def _ship_batch(self, stream: Stream, records: list[Record]) -> None:
        batch = Batch(
            stream=stream,
            first_offset=self._offsets[stream],
            points=tuple(record for record in records if isinstance(record, MetricPoint)),
            notes=tuple(record for record in records if isinstance(record, NoteRecord)),
            trials=tuple(record for record in records if isinstance(record, TrialRecord)),
        )
        failpoint("agent.shipping")
        try:
            expected = self._control.ship(self._attempt_id, batch, token=self._token)
            failpoint("agent.shipped")
            self._offsets[stream] = expected
        except WrongOffset as error:
            self._offsets[stream] = error.expected
        except BadInput as error:  # it would be refused for ever, and must not keep the result back
            logger.error("a batch is refused", attempt_id=self._attempt_id, stream=stream, error=str(error))
            self._give_up(stream, str(error))

    def _give_up(self, stream: Stream, why: str) -> None:
        """Let the experiment's events say that the rest of a stream is lost; an outage here repeats the refusal."""
        last_words = Batch(stream=stream, first_offset=self._offsets[stream], refused=why[:MAX_REASON])
        try:
            self._control.ship(self._attempt_id, last_words, token=self._token)
        except BadInput as error:
            logger.error("a refusal is refused", attempt_id=self._attempt_id, stream=stream, error=str(error))
        self._refused.add(stream)

    def commit_checkpoints(self) -> None:
        """Commit complete checkpoints that were not committed yet, oldest first."""
        for checkpoint in reversed(complete_checkpoints(self._attempt)):
            if checkpoint.step not in self._committed:
                self._commit(checkpoint)
                self._committed.add(checkpoint.step)

    def _commit(self, checkpoint: CompleteCheckpoint) -> None:
        commit = CheckpointCommit(
            step=checkpoint.step,
            path=checkpoint.directory.relative_to(self._storage).as_posix(),
            manifest_sha256=checkpoint.manifest_sha256,
            score=checkpoint.score,
        )
        failpoint("agent.committing")
        try:
            self._control.commit(self._attempt_id, commit, token=self._token)
            failpoint("agent.committed")
        except BadInput as error:
            logger.error("a checkpoint is refused", attempt_id=self._attempt_id, step=commit.step, error=str(error))
