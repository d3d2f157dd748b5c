"""The HTTP API; the only importer of FastAPI. It reads and writes the database, and never reaches into a cluster."""

from fairlead_api.app import create_app

__all__ = ["create_app"]
