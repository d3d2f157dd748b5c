"""Warm start: a Ray worker is forked from a process that has torch and Ray imported, instead of importing them.

A *warm server* runs on each node in two levels, a *root* without Ray and a server for each Ray job, because Ray reads
its job's number when it is imported. A *launcher* takes the place of the Python executable in Ray's runtime
environment. Whatever is not as expected ends in the ordinary, *cold* start.
"""

from fairlead.run.warm.launcher import SWITCHED_OFF
from fairlead.run.warm.life import Birth, birth, describe, was_forked
from fairlead.run.warm.marker import is_marked
from fairlead.run.warm.places import Places, command_line, default_directory
from fairlead.run.warm.server import JobStatus, Status, WarmServer, cold_env, runtime_env, status

__all__ = [
    "SWITCHED_OFF",
    "Birth",
    "JobStatus",
    "Places",
    "Status",
    "WarmServer",
    "birth",
    "cold_env",
    "command_line",
    "default_directory",
    "describe",
    "is_marked",
    "runtime_env",
    "status",
    "was_forked",
]
