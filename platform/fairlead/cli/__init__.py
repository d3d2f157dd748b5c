"""The command line: ``fairlead up``, ``submit``, ``watch``, ``report`` and their neighbours.

People read tables; programs ask for ``--json``, which is all that then stands on standard output. Exit codes: 0 done,
1 failed or cancelled, 2 bad usage or a bad spec, 3 trained but its gates withheld it, or no trial of a sweep keeps
the constraints, 4 no API answers or it refuses the token, 130 interrupted.
"""

from fairlead.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and exit."""
    app(prog_name="fairlead")
