"""Variables in configured paths: one meaning for every key and batch system. Pure.

``~``, ``$NAME`` and ``${NAME}`` may stand in each path. Where the path is used decides whose they are: those of
``log-directory``, ``shared-temp-directory`` and ``template-directory`` are the user's own on the login node, which
makes or reads these; those of ``local-directory`` and ``python`` are the job's, which has its own ``$TMPDIR``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: The keys whose variables are the login node's.
LOGIN_KEYS = ("log_directory", "shared_temp_directory", "template_directory")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def expand(path: str, env: Mapping[str, str]) -> str:
    """Return a path with its variables replaced, and a leading ``~``. That of another user's home stays.

    :raises ValueError: a variable is not set, or empty.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not env.get(name):
            raise ValueError(
                f"{path!r}: ${name} is not set here; set it before you start, or write the path itself"
            )
        return env[name]

    text = _VARIABLE.sub(value, path)
    if re.match(r"~(?=/|$)", path) and env.get("HOME"):
        return env["HOME"].rstrip("/") + text[1:]
    return text


def variables(text: str) -> list[str]:
    """Return the names of the variables in a text, each once."""
    return list(dict.fromkeys(match[1] or match[2] for match in _VARIABLE.finditer(text)))
