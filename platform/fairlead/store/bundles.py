"""Questions about code bundles."""

from datetime import datetime

from sqlalchemy.orm import Session

from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import BundleProjectRow, BundleRow


def find(session: Session, sha256: str) -> BundleRow | None:
    """The bundle, or None."""
    return session.get(BundleRow, sha256)


def is_in(session: Session, sha256: str, project: str) -> bool:
    """Whether the project has uploaded the bundle."""
    return session.get(BundleProjectRow, (sha256, project)) is not None


def ensure(session: Session, *, sha256: str, size: int, project: str, actor: str, now: datetime) -> bool:
    """Note for a project a bundle whose bytes are on the storage; False if the project had it."""
    insert_if_absent(session, BundleRow, sha256=sha256, size=size, created_by=actor, created_at=now)
    return insert_if_absent(session, BundleProjectRow, sha256=sha256, project=project, created_by=actor, created_at=now)
