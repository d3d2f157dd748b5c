"""Opens addresses, and says what is wrong with what lies there.

fsspec is imported where it is used: the control plane lists workload manifests through this package and has no need
of it.
"""

import errno
import gzip
import zlib
from collections.abc import Mapping
from typing import Any

from fairlead.errors import BadData, FairleadError, Problem, StorageAway

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""What to install for each storage that is not there without it."""
MAX_PROBLEMS = 20
"""So many flaws of one place are told at once."""
_LASTING = (ImportError, ValueError, EOFError, zlib.error, gzip.BadGzipFile)
_LASTING_FILES = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_ERRNOS = frozenset({None, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL})
"""pyarrow's words about what a file holds are errors of the system without a number."""


def bad(pointer: str, message: str, suggestion: str | None = None) -> BadData:
    """A refusal with one problem."""
    text = f"{message}; {suggestion}" if suggestion else message
    return BadData(text, problems=(Problem(pointer=pointer, message=message, suggestion=suggestion),))


def is_lasting(error: Exception) -> bool:
    """Whether reading again would fail alike: what is there is wrong, missing or forbidden. Else its storage failed."""
    if isinstance(error, _LASTING + _LASTING_FILES):
        return True
    return type(error) is OSError and error.errno in _LASTING_ERRNOS


def unreadable(error: Exception, message: str) -> FairleadError:
    """What to raise where reading raised ``error``: ``BadData``, or ``StorageAway`` where trying again may help."""
    return bad("/data/uri", message) if is_lasting(error) else StorageAway(message)


def locate(uri: str) -> tuple[Any, str]:
    """The fsspec storage of an address, and the path in there.

    Raises ``BadData`` where nothing is there, and ``StorageAway`` where the storage fails.
    """
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(uri)
        if not files.exists(root):
            files.info(root)  # many a storage says no where it means that it does not answer
        return files, root
    except FileNotFoundError as error:
        hint = "the path must exist where the workers run"
        raise bad("/data/uri", f"{uri}: nothing is there", hint) from error
    except ImportError as error:
        extra = EXTRAS.get(uri.partition("://")[0])
        install = f"install fairlead[{extra}] on the nodes" if extra else None
        raise bad("/data/uri", f"{uri}: this address cannot be opened: {error}", install) from error
    except ValueError as error:
        raise bad("/data/uri", f"{uri}: this address cannot be opened: {error}") from error
    except Exception as error:  # each storage has exceptions of its own
        raise unreadable(error, f"{uri}: the storage does not answer: {error}") from error


def stamp_of(info: Mapping[str, Any]) -> str:
    """What changes when a file does, of what its storage says: its size and time, or what else there is."""
    said = {name: str(info[name]) for name in _TELLING if info.get(name) is not None}
    return f"{info.get('size')} bytes of {said}"


_TELLING = ("ETag", "etag", "md5Hash", "content_md5", "generation", "LastModified", "last_modified", "mtime", "created")


def content_of(uri: str, files: Any, path: str) -> bytes:
    """All bytes of a file. Raises ``BadData``, or ``StorageAway`` where the storage fails; both name ``uri``."""
    try:
        with files.open(path, "rb") as file:
            content: bytes = file.read()
            return content
    except Exception as error:  # each storage has exceptions of its own
        raise unreadable(error, f"{uri}: the file cannot be read: {error}") from error
