"""Graphs of delayed calls as pictures, by graphviz where it is, and as text for people everywhere."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from hpclaunch.errors import CommandError

_FORMATS = ("svg", "png", "pdf", "dot", "txt")


class DrawnTask(NamedTuple):
    """One task of a graph."""

    key: str
    name: str
    inputs: list[str]  # their keys
    is_wanted: bool


class Drawing:
    """A drawn graph: its file, if one was asked for, and the same as text and in graphviz's language."""

    def __init__(self, text: str, dot: str, path: Path | None) -> None:
        self.text = text
        self.dot = dot
        self.path = path

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"{self.text}\n(written to {self.path})" if self.path is not None else self.text

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What a notebook shows."""
        bundle = {"text/plain": repr(self)}
        if self.path is not None and self.path.suffix == ".svg":
            bundle["image/svg+xml"] = self.path.read_text()
        return bundle


def draw(tasks: list[DrawnTask], filename: str | Path | None, format: str | None) -> Drawing:
    """Draw tasks, each of which comes after its inputs.

    :param filename: where to; its ending says the format if ``format`` does not. None: no file is written.
    :param format: "svg", "png", "pdf" (by graphviz), "dot" or "txt"; by default svg, or txt without graphviz.
    :raises ValueError: there is no such format.
    :raises CommandError: graphviz is not installed and the format needs it, or it failed.
    """
    text, dot = as_text(tasks), as_dot(tasks)
    if filename is None:
        return Drawing(text, dot, None)
    path = Path(filename)
    graphviz = shutil.which("dot")
    chosen = format or path.suffix.removeprefix(".") or ("svg" if graphviz else "txt")
    if chosen not in _FORMATS:
        raise ValueError(f"a graph can be drawn as {', '.join(_FORMATS)}, not as {chosen!r}")
    if path.suffix != f".{chosen}":
        path = path.with_name(f"{path.name}.{chosen}")
    if chosen in ("dot", "txt"):
        path.write_text(dot if chosen == "dot" else text)
    else:
        _run(graphviz, chosen, path, dot)
    return Drawing(text, dot, path)


def _run(graphviz: str | None, format: str, path: Path, dot: str) -> None:
    what = f"drawing a graph as {format}"
    argv = [graphviz or "dot", f"-T{format}", "-o", str(path)]
    if graphviz is None:
        hint = "Install graphviz, or ask for format='txt' or 'dot'."
        raise CommandError(what, argv=argv, output="there is no command dot here", hint=hint)
    done = subprocess.run(argv, input=dot, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(what, argv=argv, exit_code=done.returncode, output=done.stderr)


def as_text(tasks: list[DrawnTask]) -> str:
    """Return a line for each call, with what it needs: ``3. add  <- 1, 2``."""
    numbers = {one.key: i for i, one in enumerate(tasks, 1)}
    width = len(str(len(tasks)))
    lines = []
    for one in tasks:
        needs = ", ".join(str(numbers[key]) for key in one.inputs)
        wanted = "  (wanted)" if one.is_wanted else ""
        lines.append(f"{numbers[one.key]:>{width}}. {one.name}{f'  <- {needs}' if needs else ''}{wanted}")
    return "\n".join(lines) + "\n"


def as_dot(tasks: list[DrawnTask]) -> str:
    """Return the graph in graphviz's language."""
    numbers = {one.key: i for i, one in enumerate(tasks, 1)}
    lines = ["digraph {", "  rankdir=BT", "  node [shape=ellipse, fontname=Helvetica]"]
    for one in tasks:
        label = one.name.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'  {numbers[one.key]} [label="{label}"]')
        lines += [f"  {numbers[key]} -> {numbers[one.key]}" for key in one.inputs]
    return "\n".join([*lines, "}", ""])
