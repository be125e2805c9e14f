"""Texts and numbers on their way into a message: msgpack holds UTF-8 and 64 bits, Python's own hold more.

What a user gives as an argument is checked in the call (:func:`checked_text`, :func:`checked_int`), and refused by
that argument's name. What a program only tells a person (an exception's text, a traceback with a file name that is
no UTF-8) is never refused: :func:`escaped` shows what can't be encoded by backslashes.

Pure: no I/O.
"""

from __future__ import annotations

from typing import Any

import msgspec

#: The whole numbers that messages can hold, on both ends of a connection.
MIN_INT, MAX_INT = -(1 << 63), (1 << 63) - 1

_LOST = "[... {} characters are left out ...]"


def escaped(text: str) -> str:
    """Return a plain text that can be encoded: what can't be is shown by backslashes, as ``\\udce9``."""
    return str.encode(text, "utf-8", "backslashreplace").decode()


def clipped(text: str, most: int) -> str:
    """Return a text without its middle if it has more than ``most`` characters, escaped."""
    if len(text) > most:
        half = most // 2
        text = text[:half] + _LOST.format(len(text) - 2 * half) + text[-half:]
    return escaped(text)


def checked_text(argument: str, text: Any) -> str:
    """Return a user's text as a plain one.

    :param argument: how the user knows it, for the error.
    :raises TypeError: it is no text.
    :raises ValueError: it can't be encoded.
    """
    if not isinstance(text, str):
        raise TypeError(f"{argument} is a text, not {text!r:.100}")
    try:
        return str.encode(text).decode()  # also of a class of its own, such as NumPy's
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{argument} can't be sent: {text!r:.100} has a character that UTF-8 lacks, at position {error.start} "
            "(as in the name of a file that is not UTF-8)"
        ) from None


def checked_int(argument: str, number: int, least: int = MIN_INT) -> int:
    """Return a user's whole number as a plain one.

    :param argument: how the user knows it, for the error.
    :raises ValueError: it is less than ``least``, or does not fit into 64 bits.
    """
    number = int(number)
    if not least <= number <= MAX_INT:
        raise ValueError(f"{argument} is a whole number from {least} to {MAX_INT}, not {_number(number)}")
    return number


def _number(number: int) -> str:
    """Return a number as text; Python refuses to write out very long ones."""
    return str(number) if number.bit_length() < 400 else f"one of {number.bit_length()} bits"


def sendable(value: Any) -> Any:
    """Return a value that can be encoded: its texts escaped, its numbers cut to 64 bits, other objects as text.

    For what is told to a person, where less than all of it is better than nothing.
    """
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, bool | float | bytes) or value is None:
        return value
    if isinstance(value, int):
        return min(max(int(value), MIN_INT), MAX_INT)
    if isinstance(value, dict):
        return {sendable(key): sendable(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [sendable(one) for one in value]
    if isinstance(value, msgspec.Struct):
        fields = {name: sendable(getattr(value, name)) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **fields)
    return value if isinstance(value, bytearray | memoryview) else escaped(f"{value!r:.100}")


def pack(value: Any) -> bytes:
    """Encode an answer to a question; what can't be encoded in it is told as :func:`sendable` does."""
    try:
        return msgspec.msgpack.encode(value)
    except (UnicodeEncodeError, OverflowError, TypeError):
        return msgspec.msgpack.encode(sendable(value))


def _plain(value: Any) -> Any:
    """Return a text or number of a class of its own, such as NumPy's, as a plain one."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} is no plain value")


_arguments = msgspec.msgpack.Encoder(enc_hook=_plain)
_UNENCODABLE = (UnicodeEncodeError, OverflowError, TypeError, RecursionError)


def pack_arguments(method: str, arguments: dict[str, Any]) -> bytes:
    """Encode the arguments of a question.

    :raises ValueError: one of them can't be encoded, which is named.
    :raises TypeError: one is of a kind that can't be sent.
    """
    try:
        return _arguments.encode(arguments)
    except _UNENCODABLE as error:
        name, value = _culprit(arguments) or ("", arguments)
        kind = TypeError if isinstance(error, TypeError) else ValueError
        shown = f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"{value!a:.100}"
        raise kind(f"{method}: {name}= can't be sent: {shown} ({error})") from None


def _culprit(arguments: dict[str, Any]) -> tuple[str, Any] | None:
    """Return the first of some arguments that can't be encoded, and its name."""
    for name, value in arguments.items():
        try:
            _arguments.encode(value)
        except _UNENCODABLE:
            return (_culprit(value) if isinstance(value, dict) else None) or (name, value)
    return None
