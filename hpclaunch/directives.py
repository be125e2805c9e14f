"""Batch directives by their keys: which of ours a user's own directive replaces, or asks to leave out. Pure.

A directive's key is its option in one spelling: ``-pe``, ``--mem`` for all of ``--mem=4G``, ``--mem 4G`` and
``--mem-per-cpu=1G``. Of Grid Engine's ``-l`` each resource is a key of its own, ``-l h_rt``, and ``-l`` alone
means all of them. A line may have several options. Keys are compared whole; but what is to be left out may also be
a plain word, as in files of dask-jobqueue: ``mem`` leaves out every directive whose key has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hpclaunch.errors import ScriptError

_WORD = re.compile(r"[A-Za-z][\w-]*=?")
_PREFIX = re.compile(r"#(?:\$|[A-Z]+)\s+")
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./^][A-Za-z0-9_@%+=:,./~^-]*")


class Option(NamedTuple):
    """One option of a directive line: its key, and its value without quotes."""

    key: str
    value: str


def checked(value: object, refused: str) -> str:
    """Return a value's text if it can stand in a directive.

    :param refused: characters that the batch system has no way to quote.
    :raises ScriptError: it has one of these or a control character, is empty, or would be read as an option.
    """
    text = str(value)
    bad = [c for c in text if c in refused or not (c.isprintable() or c == " " or "\udc80" <= c <= "\udcff")]
    if bad or not text or text.startswith("-"):
        why = f"it has {bad[0]!r}" if bad else "it begins with '-'" if text else "it is empty"
        raise ScriptError(f"{text!r} can't stand in a batch directive: {why}")
    return text


def is_plain(text: str) -> bool:
    """Say whether a text needs no quotes in a directive, whatever the batch system."""
    return _PLAIN.fullmatch(text) is not None


def plain_word(value: object) -> str:
    """Return a value as one word of a directive, for a batch system that has no quotes.

    :raises ScriptError: it needs quotes.
    """
    text = checked(value, "")
    if not is_plain(text):
        raise ScriptError(f"{text!r} can't stand in a batch directive: this batch system has no quotes")
    return text


def _no_seconds(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _accept(lines: Sequence[str]) -> object:
    return None


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How the directives of one batch system are written and read; a codec has one.

    :param prefix: what a directive line of a script begins with: ``#SBATCH``.
    :param same: other spellings of an option, and options that cannot stand beside it -> its key.
    :param refused: options that hpclaunch cannot work with -> the reason, for the user.
    :param list_option: the option whose value is a list ``a=1,b=2`` of resources, each a key of its own.
    :param queue_option: the key of the option that chooses a queue.
    :param slots_option: the option ``OPTION NAME N`` that asks for slots, where there is such a thing.
    :param time_option: the key of the directive for the run time: ``--time``, ``-l h_rt``.
    :param has_joined_values: whether ``-p8`` is ``-p 8``.
    :param read_seconds: reads a run time; None if the text is none.
    :param write_word: the filter ``d`` of templates: a value as one word, quoted; raises ScriptError.
    :param check: looks at all the user's own directives together; raises ScriptError.
    """

    prefix: str
    same: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    list_option: str = ""
    queue_option: str = ""
    slots_option: str = ""
    time_option: str = ""
    has_joined_values: bool = False
    read_seconds: Callable[[str], int | None] = _no_seconds
    write_word: Callable[[object], str] = plain_word
    check: Callable[[Sequence[str]], object] = _accept


def options(line: str, dialect: Dialect) -> list[Option]:
    """Return the options of a directive line; several for ``-l h_rt=1:0:0,disk=24G`` and for ``-V -j y``.

    :raises ScriptError: it does not begin with an option.
    """
    found: list[tuple[str, list[str]]] = []
    for word in _words(_PREFIX.sub("", line.strip())):
        if re.match(r"-[^\d\s]", word):
            option, value = _split_option(word, dialect)
            found.append((option, [value] if value else []))
        elif found:
            found[-1][1].append(word)
        else:
            raise ScriptError(f"{line!r} is no directive: it must begin with an option, such as -V or --mem=4G")
    return [one for option, values in found for one in _keyed(option, " ".join(values), dialect)]


def _words(line: str) -> list[str]:
    """Split a line at blanks outside of quotes, and drop the quotes."""
    return [re.sub(r"[\"']", "", word) for word in re.findall(r"(?:[^\s\"']|\"[^\"]*\"?|'[^']*'?)+", line)]


def _split_option(word: str, dialect: Dialect) -> tuple[str, str]:
    if word.startswith("--"):
        option, _, value = word.partition("=")
    elif dialect.has_joined_values:
        option, value = word[:2], word[2:]  # -p8 is -p 8
    else:
        option, value = word, ""
    return dialect.same.get(option, option), value


def _keyed(option: str, value: str, dialect: Dialect) -> list[Option]:
    if option != dialect.list_option or not value:
        return [Option(option, value)]
    resources = [one.strip() for one in value.split(",") if one.strip()]
    return [Option(f"{option} {one.partition('=')[0].strip()}", one) for one in resources]


def _options_of(config_key: str, line: str, dialect: Dialect) -> list[Option]:
    try:
        return options(line, dialect)
    except ScriptError as error:
        raise ScriptError(f"{config_key}: {error}") from None


class Directives:
    """Answers, for each directive of ours, whether it is to stand in the script.

    :param extra: the user's own directives, which win.
    :param skip: what the user wants left out, by key.
    :raises ScriptError: one of them is no directive, or one that hpclaunch cannot work with.
    """

    def __init__(self, extra: Sequence[str], skip: Sequence[str], dialect: Dialect) -> None:
        self._dialect = dialect
        self._given = {
            option.key: option.value
            for line in extra
            if line.strip()
            for option in _options_of("job-extra-directives", line, dialect)
        }
        self._skipped: dict[str, str] = {}
        self._words = tuple(one for one in map(str.strip, skip) if _WORD.fullmatch(one))
        for line in skip:
            if line.strip() and line.strip() not in self._words:
                said = _options_of("job-directives-skip", line, dialect)
                self._skipped.update({option.key: line for option in said})
        self._hits: set[str] = set()
        for key, why in dialect.refused.items():
            if key in self._given:
                raise ScriptError(f"job-extra-directives: {key} can't be used: {why}")
        dialect.check(extra)

    def wants(self, directive: str) -> bool:
        """Say whether our directive with this key, such as ``-pe`` or ``-l h_rt``, stands in the script."""
        return all(self._wants_key(option.key) for option in options(directive, self._dialect))

    def _wants_key(self, key: str) -> bool:
        asked = {key, key.partition(" ")[0]} & self._skipped.keys()
        asked |= {word for word in self._words if word.rstrip("=") in key}
        self._hits |= asked
        return not asked and key not in self._given

    def wants_resources(self, spec: str) -> str:
        """Return what is left of a resource list ``a=1,b=2`` after those that the user replaces or skips."""
        return ",".join(
            one.strip()
            for one in spec.split(",")
            if one.strip() and self.wants(f"{self._dialect.list_option} {one.strip()}")
        )

    def slots(self, ours: int) -> int:
        """Return how many slots a job gets: those of the user's own ``-pe NAME N``, else ours.

        Of a range such as ``4-8`` it is the least. A batch system without slots gives ours.
        """
        option = self._dialect.slots_option
        if not option:
            return ours
        if option in self._given:
            count = re.search(r"\s(\d+)(?:-\d*)?$", self._given[option])
            return max(1, int(count[1])) if count else 1
        return ours if self.wants(option) else 1

    def run_time(self, resource_spec: str = "") -> int | None:
        """Return the seconds of run time that the user's own directives ask for; None if they don't say."""
        key, dialect = self._dialect.time_option, self._dialect
        option, _, resource = key.partition(" ")
        if not resource:
            return dialect.read_seconds(self._given.get(key, ""))
        own = [one.value for one in options(f"{option} {resource_spec}", dialect)] if resource_spec.strip() else []
        for one in (*own, self._given.get(key, "")):
            name, _, value = one.partition("=")
            if name.strip() == resource and (seconds := dialect.read_seconds(value)) is not None:
                return seconds
        return None

    def useless_skips(self) -> Iterable[str]:
        """Give what was to be left out but is nothing of ours; call it after the script is rendered."""
        said = {**self._skipped, **{word: word for word in self._words}}
        return [line for key, line in said.items() if key not in self._hits]
