"""Words that are not the field's stay out of prose: docs, comments, docstrings, messages, tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Pattern -> what to write instead. "So it is" is refused at the beginning of a sentence.
WORDS = {
    r"nobody(?:'s)?": "who it is: no worker, no client, no other user; or the passive",
    r"somebody(?:'s)?": "who it is: a client, another user, a person",
    r"(?:any|every)body(?:'s)?": "who it is: all clients, any user",
    r"whoever": "who it is: the client that ..., the process that ...",
    r"anew": "again; re-create, restart",
    r"kin": "and the like",
    r"(?-i:So it is|So is it)": "The same holds for ...",
    r"let(?:s|ting)? go(?: of)?": "release, retire, disconnect",
    r"for ever": "never, without limit",
    r"lest|whence|hence|thereof|hitherto": "so that ... not, from where, so, of it, so far",
}
PATTERN = re.compile("|".join(rf"\b(?:{word})\b" for word in WORDS), re.IGNORECASE)
#: Not prose of ours: recorded output, and this list.
NOT_PROSE = ("tests/data", "tests/test_words.py")
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".j2", ".sh", ".toml", ".cff"}
FOLDERS = ("hpclaunch", "docs", "tests", "templates", "configs", "examples", "benchmarks", ".github")


def prose() -> Iterator[Path]:
    """Give the files whose words are checked."""
    yield from (path for path in sorted(ROOT.iterdir()) if path.suffix in SUFFIXES or path.name == "Makefile")
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and not is_below(path, NOT_PROSE):
                yield path


def is_below(path: Path, places: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(ROOT / place) for place in places)


def faults(text: str) -> list[str]:
    """Return the words in a text that are to be written otherwise, with their lines."""
    return [f"{text.count(chr(10), 0, m.start()) + 1}: {m[0]!r}" for m in PATTERN.finditer(text)]


def test_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{fault}"
        for path in prose()
        for fault in faults(path.read_text(encoding="utf-8"))
    ]
    assert found == [], f"WORDS in {Path(__file__).name} says what to write instead"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Nobody knows", 1),
        ("a worker that somebody's job has", 1),
        ("is let go, lets go of it, letting go", 3),
        ("fails. So it is with an actor's", 1),
        ("no list, so it is tested", 0),
        ("kind, skin, linkin, renewal, thence", 0),
        ("let it go; forever", 0),
    ],
)
def test_pattern(text: str, count: int) -> None:
    assert len(faults(text)) == count
