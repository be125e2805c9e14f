"""Keys as users write them, texts or tuples such as ``("x", 0)``, and as the cluster knows them: as texts.

A tuple is known by its ``repr``, so that a text that reads like a tuple is the key of that tuple.
"""

from __future__ import annotations

import operator
from typing import Any

from hpclaunch.comm.texts import checked_text

#: A key must fit where a worker notes what it runs.
_MAX_BYTES = 400

Key = str | tuple[Any, ...]


def text_of_key(key: Any) -> str:
    """Return what the cluster knows a key by.

    :raises ValueError: it is no key, or can't be encoded.
    """
    text = key if type(key) is str else checked_text("a key", key) if isinstance(key, str) else ""
    if isinstance(key, tuple) and key:
        text = checked_text("a key", repr(_plain(key)))
    try:
        is_sound = bool(text) and len(text.encode()) <= _MAX_BYTES
    except UnicodeEncodeError:
        checked_text("a key", text)  # raises
    if not is_sound:
        raise ValueError(
            f"a key is a text of 1 to {_MAX_BYTES} bytes, or a tuple of texts and numbers that is no longer, not "
            f"{key!r:.100}"
        )
    return text


def key_of_text(text: str) -> Key:
    """Return the key as its user wrote it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    import ast  # few programs need it

    try:
        key = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return key if isinstance(key, tuple) and key and repr(key) == text else text


def _plain(part: Any) -> Any:
    """Return a part of a key as what it is without its class: NumPy's numbers are numbers.

    :raises ValueError: it can be no part of a key.
    """
    if isinstance(part, tuple):
        return tuple(map(_plain, part))
    if part is None or isinstance(part, bool):
        return part
    if isinstance(part, str):
        return str(part)
    if isinstance(part, bytes):
        return bytes(part)
    if isinstance(part, float):
        return float(part)
    try:
        return operator.index(part)
    except TypeError:
        raise ValueError(
            f"a key is a text, or a tuple of texts, bytes, numbers and such tuples; {part!r:.100} can't be in one"
        ) from None
