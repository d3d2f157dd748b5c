"""What a server of a newer release would answer: all that is known, and more."""

from typing import Any

NEWS = "of_a_newer_release"
"""A key that no release has."""


def saying_more(content: Any, *, also: tuple[str, ...] = ()) -> Any:
    """``content`` with a key more in each of its documents: itself, those in lists, and those under a key of ``also``.

    Other mappings are left alone: theirs may be the user's own keys.
    """
    if isinstance(content, list):
        return [saying_more(one, also=also) for one in content]
    if not isinstance(content, dict):
        return content
    known = {
        key: saying_more(value, also=also) if isinstance(value, list) or key in also else value
        for key, value in content.items()
    }
    return known | {NEWS: {"a": [1]}}
