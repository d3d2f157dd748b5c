"""Stage 4: drives Ray for one attempt: the runner actor, Ray Train, checkpoints, logs and the worker's context."""
