"""YAML documents, read with the file and line of each key.

Rules: plain data only; a key that stands twice in a mapping is a mistake; merge keys (``<<: *other``) work, and
what they bring keeps the line where it was written. YAML 1.1 reads ``01:00:00`` as a number in base 60, ``0123``
as one in base 8 and ``2026-01-31`` as a date: here they stay what was written.

This module knows no configuration keys. It collects mistakes in a list that the caller hands in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hpclaunch import file_errors
from hpclaunch.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
#: Plain words for which YAML has a meaning that is not wanted here.
_AS_WRITTEN = (_MERGE, f"{_TAG}value", f"{_TAG}timestamp")
_QUICK_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class Value(NamedTuple):
    """A value and where it came from: ``file.yaml:7``, ``$HPCLAUNCH_...`` or ``argument cores``."""

    value: Any
    origin: str


class Entry(NamedTuple):
    """One key of a mapping, its value yet to be read, and the key's ``file:line``."""

    key: str
    node: yaml.Node
    origin: str


def compose(path: Path, errors: list[ConfigError], *, is_ours: bool = False) -> yaml.Node | None:
    """Return the root of a file; None if it is empty, or can't be read, which is then in ``errors``.

    :param is_ours: the file is our own. YAML's reader in C, ten times as quick, is good enough for that one: it
        words mistakes worse, and nesting without end kills the process.
    """
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=_QUICK_LOADER if is_ours else yaml.SafeLoader)
    except OSError as error:
        why = error.strerror if isinstance(error, FileNotFoundError) else file_errors.told(error, path)
        errors.append(ConfigError(f"can't be read: {why}", origin=str(path)))
    except UnicodeDecodeError as error:
        text = f"is not UTF-8 text: {error.reason} at byte {error.start}"
        errors.append(ConfigError(text, origin=str(path)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; indent with blanks, not with tabs" if "'\\t'" in str(error.problem) else ""
        origin = f"{path}:{mark.line + 1}" if mark else str(path)
        errors.append(ConfigError(f"is not YAML: {error.problem or error.context}{hint}", origin=origin))
    except yaml.YAMLError as error:
        errors.append(ConfigError(f"is not YAML: {' '.join(str(error).split())}", origin=str(path)))
    return None


def entries(node: yaml.Node, path: str, errors: list[ConfigError]) -> Iterator[Entry]:
    """Give the keys of a mapping, its own first, then those that merge keys bring. A null has none."""
    origin = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null":
        return
    if not isinstance(node, yaml.MappingNode):
        errors.append(ConfigError("a mapping of keys to values is expected here", origin=origin))
        return
    first: dict[str, int] = {}
    merged: list[yaml.Node] = []
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag == _MERGE:
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        elif not isinstance(key_node, yaml.ScalarNode):
            errors.append(ConfigError("a key must be a plain word", origin=f"{path}:{line}"))
        elif (same := key_node.value.replace("_", "-")) in first:
            text = f"{key_node.value!r} stands here a second time; the first is in line {first[same]}"
            errors.append(ConfigError(text, origin=f"{path}:{line}", key=key_node.value))
        else:
            first[same] = line
            yield Entry(key_node.value, value, f"{path}:{line}")
    for other in merged:
        for entry in entries(other, path, errors):
            same = entry.key.replace("_", "-")
            if same not in first:
                first[same] = 0  # its line is not asked for: the next one is no mistake
                yield entry


def construct(node: yaml.Node, path: str, errors: list[ConfigError]) -> Any:
    """Return a node's value; None if it can't be read, which is then in ``errors``."""
    if isinstance(node, yaml.MappingNode):
        return {key: construct(value, path, errors) for key, value, _ in entries(node, path, errors)}
    if isinstance(node, yaml.SequenceNode):
        return [construct(one, path, errors) for one in node.value]
    try:
        return _scalar(node)
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or str(error)
        origin = f"{path}:{node.start_mark.line + 1}"
        errors.append(ConfigError(f"can't be read: {problem}; only plain values can stand here", origin=origin))
        return None


def parse_text(text: str) -> Any:
    """Return what a text means that stands outside of a file, in an environment variable or an option.

    It is read as YAML, but a number with a point stays a text, which every number's reader takes: a queue may be
    called 1.10, and there is no way to put quotes around it there.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text
    if node is None:
        return None
    errors: list[ConfigError] = []
    value = construct(node, "", errors)
    return text if errors or isinstance(value, float) else value


def _scalar(node: yaml.Node) -> Any:
    if node.tag in _AS_WRITTEN:
        return node.value
    value = yaml.SafeLoader("").construct_object(node, deep=True)
    if isinstance(value, int) and not isinstance(value, bool) and str(value) != node.value:
        return node.value  # base 60, 8 or 16, or with underscores
    if isinstance(value, float) and ":" in node.value:
        return node.value
    return value
