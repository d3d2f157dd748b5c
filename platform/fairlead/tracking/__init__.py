"""The only door to MLflow: the server's settings, the recorder that writes to it, the models it is given.

Importing this package loads nothing: ``server`` needs no MLflow and must stay cheap for whoever starts the server.
Public names: ``tracking.server.server_command`` and ``server_environment``; ``tracking.recorder.Recorder``.
"""

__all__: list[str] = []
