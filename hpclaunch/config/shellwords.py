"""Words as a shell reads them, for text that goes into a command of the job script as it stands. Pure.

A word may be quoted, escaped or plain, and may have variables (``$NAME``, ``${NAME}``), which are the job's own.
What would end the command or run another one (``;``, ``|``, ``$(...)``, backquotes, a comment) is no part of one.
"""

from __future__ import annotations

import re
import shlex

_PART = r"""(?:'[^']*'|"(?:\\.|[^"\\`$]|\$(?!\())*"|\\.|\$(?!\()|[^\s'"\\`$();<>|&])"""
_WORD = re.compile(rf"(?!\#){_PART}+")
_VARIABLE = re.compile(r"\$[A-Za-z_{]")


def split(text: str) -> list[str]:
    """Return the words of a text as they stand in it, quotes and variables included.

    :raises ValueError: something in it is no part of a word; the message names the character.
    """
    words: list[str] = []
    rest = text.strip()
    while rest:
        match = _WORD.match(rest)
        end = match.end() if match else 0
        if match is None or (end < len(rest) and not rest[end].isspace()):
            raise ValueError(f"{text!r}: {rest[end]!r} is not part of an argument; quote it")
        words.append(match[0])
        rest = rest[end:].lstrip()
    return words


def literal(word: str) -> str | None:
    """Return what a word stands for; None if only the job's shell knows, since it has a variable or a ``~``."""
    if word.startswith("~") or (_VARIABLE.search(word) and not re.fullmatch("'[^']*'", word)):
        return None
    (text,) = shlex.split(word) or [""]
    return text
