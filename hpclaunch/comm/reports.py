"""Our own errors as plain data, so that an error raised in the head reaches the user as the same class.

Only classes of :mod:`hpclaunch.errors` are rebuilt, by name, from their text and plain attributes: nothing here
runs a constructor that the sender chose.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hpclaunch import errors
from hpclaunch.comm.messages import ErrorReport
from hpclaunch.comm.texts import escaped, pack


def to_report(error: BaseException) -> ErrorReport:
    """Return an error as plain data; one that is not ours becomes a BugError that tells its class."""
    if not isinstance(error, errors.HPCLaunchError):
        return ErrorReport("BugError", escaped(f"{type(error).__name__}: {error}"))
    plain = {k: v for k, v in vars(error).items() if _is_plain(v)}
    return ErrorReport(type(error).__name__, escaped(str(error)), pack(plain))


def to_error(report: ErrorReport) -> errors.HPCLaunchError:
    """Return the error that a report describes. An unknown class becomes HPCLaunchError."""
    cls = getattr(errors, report.kind, None)
    if not (isinstance(cls, type) and issubclass(cls, errors.HPCLaunchError)):
        cls = errors.HPCLaunchError
    error: errors.HPCLaunchError = cls.__new__(cls)
    error.args = (report.text,)
    attributes = msgspec.msgpack.decode(report.attributes, type=dict[str, Any])
    error.__dict__.update({k: tuple(v) if isinstance(v, list) else v for k, v in attributes.items()})
    return error


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, str | int | float | bool)
