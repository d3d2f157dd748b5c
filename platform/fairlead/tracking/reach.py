"""Telling a server that is away from a request that is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from mlflow.exceptions import MlflowException

from fairlead.errors import BadInput, NotFound, Unavailable

_AWAY = frozenset({429, 502, 503, 504})
_SERVER_BUG = "too many 500 error responses"


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Raise ``Unavailable`` if MLflow does not answer or asks to wait, ``NotFound`` if the run or model is gone.

    Whatever else MLflow answers becomes ``BadInput``, for those who may not know MLflow's own exceptions: a 400 or a
    500 will be the same the next time, and must hold up this one experiment alone.
    """
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        if _is_away(error):
            raise Unavailable(f"MLflow at {url} does not answer; will try again: {_short(error)}") from error
        if _is_missing(error):
            raise NotFound(f"MLflow at {url} no longer has it; ensure_run makes it again: {_short(error)}") from error
        raise BadInput(f"MLflow at {url} refuses it: {_short(error)}") from error


def _is_away(error: Exception) -> bool:
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in _AWAY
    if isinstance(error, requests.RequestException):
        return _SERVER_BUG not in str(error)
    # MLflow wraps what requests raises in an exception of its own and leaves the cause beside it.
    cause = error.__cause__ or error.__context__
    if isinstance(cause, requests.RequestException):
        return _is_away(cause)
    return isinstance(error, MlflowException) and error.get_http_status_code() in _AWAY


def _is_missing(error: Exception) -> bool:
    if not isinstance(error, MlflowException):
        return False
    return error.error_code == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in str(error)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
