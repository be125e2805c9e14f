"""``worker-extra-args``: what users of dask-jobqueue write for a Dask worker, as our worker takes it. Pure.

Three kinds of options: those that mean the same here, under our name or as a configuration key; those that have no
meaning here, with the reason why; and the rest, which are refused before a job waits in a queue with them.
Values with variables are only known in the job: they go to the worker as they stand, where it has such an option.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from hpclaunch.config import shellwords
from hpclaunch.config.units import parse_bytes, parse_duration, parse_resources

#: Options with a value that mean something here: other spellings -> ours.
_NAMES = {
    "--nworkers": "--processes",
    "--n-workers": "--processes",
    "--nprocs": "--processes",
    "--processes": "--processes",
    "--nthreads": "--threads",
    "--threads": "--threads",
    "--memory-limit": "--memory-limit",
    "--memory": "--memory",
    "--local-directory": "--local-directory",
    "--dask-temp": "--local-directory",
    "--death-timeout": "--death-timeout",
    "--interface": "--interface",
    "--protocol": "--protocol",
    "--resources": "--resources",
    "--lifetime": "--lifetime",
    "--lifetime-stagger": "--lifetime-stagger",
    "--preload": "--preload",
}
#: Values that leave to a Dask worker what hpclaunch works out anyway.
_AUTOMATIC = {"--processes": "auto", "--threads": "0", "--memory-limit": "auto"}

_NO_DASHBOARD = "workers have no dashboard"
_OWN_NAMES = "workers are named by their jobs"
_FREE_PORTS = "workers choose free ports, and what these can't reach goes through the head"
_CERTIFICATES = "each cluster makes its own certificates"
_WATCHED = "workers are always watched over"
#: Options of Dask's that do nothing here: name -> (whether a value follows, why).
_WITHOUT_MEANING: dict[str, tuple[bool, str]] = {
    "--dashboard": (False, _NO_DASHBOARD),
    "--no-dashboard": (False, _NO_DASHBOARD),
    "--bokeh": (False, _NO_DASHBOARD),
    "--no-bokeh": (False, _NO_DASHBOARD),
    "--bokeh-port": (True, _NO_DASHBOARD),
    "--dashboard-address": (True, _NO_DASHBOARD),
    "--dashboard-prefix": (True, _NO_DASHBOARD),
    "--bokeh-prefix": (True, _NO_DASHBOARD),
    "--name": (True, _OWN_NAMES),
    "--host": (True, _FREE_PORTS),
    "--worker-port": (True, _FREE_PORTS),
    "--nanny-port": (True, _FREE_PORTS),
    "--listen-address": (True, _FREE_PORTS),
    "--contact-address": (True, _FREE_PORTS),
    "--tls-ca-file": (True, _CERTIFICATES),
    "--tls-cert": (True, _CERTIFICATES),
    "--tls-key": (True, _CERTIFICATES),
    "--scheduler-sni": (True, _CERTIFICATES),
    "--nanny": (False, _WATCHED),
    "--no-nanny": (False, _WATCHED),
    "--lifetime-restart": (False, "a job whose lifetime is over is replaced by another"),
    "--no-lifetime-restart": (False, "a job whose lifetime is over is replaced by another"),
    "--reconnect": (False, "a worker looks for its head until death-timeout"),
    "--no-reconnect": (False, "a worker looks for its head until death-timeout"),
    "--pid-file": (True, "the job's start ticket has its process id"),
    "--scheduler-file": (True, "a job finds its own head"),
    "--worker-class": (True, "hpclaunch has its own workers"),
    "--preload-argv": (True, "a module given to --preload gets no arguments"),
    "--preload-nanny": (True, "hpclaunch has no nanny to load modules into; --preload is for the workers"),
    "--preload-nanny-argv": (True, "hpclaunch has no nanny to load modules into"),
    "--validate": (False, "hpclaunch checks its workers in its own tests"),
}


class WorkerArguments(NamedTuple):
    """What extra arguments come to."""

    words: tuple[str, ...] = ()  # for our worker's command line, as the job's shell is to read them
    keys: dict[str, Any] = {}  # configuration keys that they stand for, typed
    ignored: dict[str, str] = {}  # option -> why it does nothing here


def translate(lines: Sequence[str]) -> WorkerArguments:
    """Read the items of worker-extra-args: words, several in an item or an option and its value in two.

    ``keys`` may have ``processes``, ``worker_threads``, ``death_timeout`` (seconds), ``interface``, ``protocol``
    and ``resources``.

    :raises ValueError: an option is unknown, lacks its value, or has one that can't be read.
    """
    words: list[str] = []
    keys: dict[str, Any] = {}
    ignored: dict[str, str] = {}
    for option, value in _options([word for line in lines for word in shellwords.split(line)]):
        if option in _WITHOUT_MEANING:
            ignored[option] = _WITHOUT_MEANING[option][1]
            continue
        ours = _NAMES[option]
        text = shellwords.literal(value)
        if text is not None and text == _AUTOMATIC.get(ours):
            continue
        if text is None and ours == "--protocol":
            raise ValueError(f"{option}: must be tls:// or tcp://, not {value!r}")
        if text is None or ours not in _READ:
            words += [ours, value]
            continue
        try:
            key, read = _READ[ours][0], _READ[ours][1](text)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from None
        if key is None:
            words += [ours, shlex.quote(str(read))]
        else:
            keys[key] = {**keys[key], **read} if key == "resources" and key in keys else read
    return WorkerArguments(tuple(words), keys, ignored)


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Give each option with its value, as the shell would read it; an empty one where none belongs."""
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in _WITHOUT_MEANING and not _WITHOUT_MEANING[option][0]:
            yield option, ""
            continue
        if option not in _NAMES and option not in _WITHOUT_MEANING:
            raise ValueError(_unknown(word))
        if not equals:
            value = next(rest, "")
            if not value or value in _NAMES or value in _WITHOUT_MEANING:
                raise ValueError(f"{option} must be followed by its value")
        yield option, value


def _unknown(word: str) -> str:
    if not word.startswith("-"):
        return f"{word!r} belongs to no option; a value with blanks needs quotes"
    option = word.partition("=")[0]
    close = difflib.get_close_matches(option, [*_NAMES, *_WITHOUT_MEANING], 1, 0.6)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(set(_NAMES.values())))}"
    return f"a worker has no option {option!r}; {hint}"


# --- values -------------------------------------------------------------------------------------------------


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise ValueError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError(f"must be a time above 0, such as 55m, not {text!r}")
    return seconds


def _some_seconds(text: str) -> str:
    return f"{parse_duration(text):g}"


def _limit(text: str) -> str:
    """Read a worker's memory: a size, a share of the job's memory up to 1, or 0 for no limit."""
    try:
        share = float(text)
    except ValueError:
        share = 2.0
    if 0 <= share <= 1:
        return f"{share:g}"
    size = parse_bytes(text)
    if size < 1 << 20:
        raise ValueError(f"{text!r} is less than 1 MiB; did you forget the unit?")
    return str(size)


def _bytes(text: str) -> str:
    return "0" if text == "0" else str(parse_bytes(text))


def _protocol(text: str) -> str:
    plain = text.removesuffix("://")
    if plain not in ("tcp", "tls"):
        raise ValueError(f"must be tls:// or tcp://, not {text!r}: others are not spoken here")
    return plain


#: Our option -> (configuration key, or None for a word of the worker's command line; how its value is read).
_READ: dict[str, tuple[str | None, Callable[[str], Any]]] = {
    "--processes": ("processes", _count),
    "--threads": ("worker_threads", _count),
    "--death-timeout": ("death_timeout", _seconds),
    "--interface": ("interface", str),
    "--protocol": ("protocol", _protocol),
    "--resources": ("resources", parse_resources),
    "--memory-limit": (None, _limit),
    "--memory": (None, _bytes),
    "--lifetime": (None, lambda text: f"{_seconds(text):g}"),
    "--lifetime-stagger": (None, _some_seconds),
}
