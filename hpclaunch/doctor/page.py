"""The page that `hpclaunch doctor` prints. Pure: findings in, text out.

Eighty columns. Colours only mark the grades, and are those of the terminal's own palette, so they can be read on
light and on dark; where the output is no terminal there are none.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpclaunch.doctor.findings import Finding, Grade

_WIDTH = 80
_SUBJECT = 22
#: Yellow can't be read on white, nor blue on black.
_COLOURS = {Grade.OK: "32", Grade.NOTE: "35;1", Grade.BAD: "31;1"}


def page(title: str, findings: Sequence[Finding], *, section: str, file: str, is_coloured: bool) -> str:
    """Return the whole page.

    :param section: below which the keys go that are to be written.
    :param file: the user's configuration file.
    """
    lines = [_bold(title, is_coloured), ""]
    for finding in findings:
        lines += _lines(finding, is_coloured)
    lines += ["", *_to_write(findings, section, file, is_coloured)]
    return "\n".join(lines).rstrip() + "\n"


def is_well(findings: Iterable[Finding]) -> bool:
    """Say whether jobs work: nothing is bad."""
    return all(finding.grade is not Grade.BAD for finding in findings)


def _lines(finding: Finding, is_coloured: bool) -> list[str]:
    mark = f"{finding.grade:<4}"
    if is_coloured:
        mark = f"\x1b[{_COLOURS[finding.grade]}m{mark}\x1b[0m"
    indent = " " * (5 + _SUBJECT)
    text = _wrapped(finding.text, _WIDTH - len(indent)) or [""]
    lines = [f"{mark} {finding.subject:<{_SUBJECT - 1}} {text[0]}", *(indent + one for one in text[1:])]
    advice = _wrapped(finding.advice, _WIDTH - len(indent) - 3)
    return lines + [indent + ("-> " if i == 0 else "   ") + one for i, one in enumerate(advice)]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def _to_write(findings: Sequence[Finding], section: str, file: str, is_coloured: bool) -> list[str]:
    keys: dict[str, Any] = {}
    for finding in findings:
        for key, value in finding.write.items():
            if isinstance(value, list) and isinstance(keys.get(key), list):
                keys[key] = [*keys[key], *(one for one in value if one not in keys[key])]
            else:
                keys.setdefault(key, value)
    bad = sum(finding.grade is Grade.BAD for finding in findings)
    notes = sum(finding.grade is Grade.NOTE for finding in findings)
    if not bad:
        verdict = "Jobs work here." + (f" {_counted(notes, 'note')} above." if notes else "")
    else:
        verdict = f"Jobs do not work here yet: {_counted(bad, 'thing')} to mend."
    lines = [_bold(verdict, is_coloured)]
    if keys:
        lines += ["", "What to write into", f"{file}:", "", *_yaml(section, keys)]
    return lines


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number != 1 else ''}"


def _yaml(section: str, keys: Mapping[str, Any]) -> list[str]:
    lines = ["  jobqueue:", f"    {section}:"]
    for key, value in keys.items():
        if isinstance(value, list):
            lines += [f"      {key}:", *(f"        - {_scalar(one)}" for one in value)]
        else:
            lines.append(f"      {key}: {_scalar(value)}")
    return lines


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    text = str(value)
    return f"'{text}'" if any(sign in text for sign in ":#{}[]&*!|>%@`") or text != text.strip() else text


def _bold(text: str, is_coloured: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if is_coloured else text
