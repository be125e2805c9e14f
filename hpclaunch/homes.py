"""Home directories, which a user may not have: in containers, a user id often has neither a name nor ``$HOME``.

Both halves use this module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hpclaunch.errors import ConfigError


def home(env: Mapping[str, str] | None = None) -> Path | None:
    """Return the user's home directory, by ``$HOME`` or the password database; None if neither knows one."""
    known = (os.environ if env is None else env).get("HOME", "")
    if known.startswith("/"):
        return Path(known)
    import pwd

    try:
        found = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container that runs as a number
        return None
    return Path(found) if found.startswith("/") else None


def expanded(path: str | os.PathLike[str], key: str) -> Path:
    """Return a path whose ``~`` is the home directory.

    :param key: what the user sets, for the error.
    :raises ConfigError: there is no such home directory.
    """
    text = os.fspath(path)
    if not text.startswith("~"):
        return Path(text)
    name, _, rest = text[1:].partition("/")
    if not name:
        if (own := home()) is None:
            raise ConfigError(
                f"{text} can't be found: user id {os.getuid()} has no home directory here (HOME is not set, "
                f"and the user database does not know the id). Set HOME to a directory of yours, or {key} to a "
                "whole path",
                key=key,
            )
        return own / rest
    import pwd

    try:
        return Path(pwd.getpwnam(name).pw_dir) / rest
    except KeyError:
        raise ConfigError(
            f"{text} can't be found: this host knows no user {name!r}. Set {key} to a whole path", key=key
        ) from None
