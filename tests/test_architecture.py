"""The shape of the code: pure modules stay pure, the two halves stay apart, a worker stays lean.

Every module belongs to one half or joins them, and the pure ones are listed; a listed module must exist.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .testbed import install

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hpclaunch"

# Pure: (state, event, now) -> commands. No I/O, clock, randomness or environment.
PURE = {
    "batch.base",
    "batch.local",
    "batch.sge",
    "batch.slurm",
    "cluster.adaptation",
    "cluster.adaptive",
    "cluster.backoff",
    "cluster.book",
    "cluster.ceiling",
    "cluster.commands",
    "cluster.expiry",
    "cluster.following",
    "cluster.job",
    "cluster.ledger",
    "cluster.reasons",
    "cluster.scaling",
    "cluster.submissions",
    "cluster.verdict",
    "cluster.watch",
    "comm.buffers",
    "comm.class_copies",
    "comm.framing",
    "comm.keys",
    "comm.messages",
    "comm.registry",
    "comm.serialize",
    "comm.texts",
    "comm.unpickling",
    "config.paths",
    "config.readings",
    "config.schema",
    "config.shellwords",
    "config.units",
    "config.worker_options",
    "dialects",
    "directives",
    "doctor.findings",
    "doctor.page",
    "errors",
    "mpi.arguments",
    "mpi.launch",
    "mpi.roles",
    "scheduler.balance",
    "scheduler.batches",
    "scheduler.actors",
    "scheduler.checks",
    "scheduler.claims",
    "scheduler.commands",
    "scheduler.large_functions",
    "scheduler.leaving",
    "scheduler.load",
    "scheduler.multilocks",
    "scheduler.named",
    "scheduler.demand",
    "scheduler.news",
    "scheduler.placement",
    "scheduler.pressure",
    "scheduler.reactor",
    "scheduler.runs",
    "scheduler.scattered",
    "scheduler.recall",
    "scheduler.rings",
    "scheduler.restricted",
    "scheduler.sizes",
    "scheduler.state",
    "scheduler.terms",
    "scheduler.timeouts",
    "scheduler.why",
    "scheduler.wishes",
    "worker.commands",
    "worker.deaths",
    "worker.memory",
    "worker.reactor",
    "worker.state",
}

# What pure modules may import. Of these a few can do more than compute; USED_PURELY says what of them is allowed.
ALLOWED = {
    "abc",
    "ast",
    "__future__",
    "bisect",
    "collections",
    "contextlib",
    "copyreg",
    "contextvars",
    "concurrent.futures",
    "dataclasses",
    "difflib",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "io",
    "itertools",
    "json",
    "math",
    "mmap",
    "operator",
    "pickle",
    "pathlib",
    "random",
    "re",
    "shlex",
    "signal",
    "statistics",
    "string",
    "sys",
    "struct",
    "textwrap",
    "threading",
    "traceback",
    "types",
    "typing",
    "weakref",
    "xml",
    # not of the standard library
    "cloudpickle",
    "msgspec",
}
USED_PURELY = {
    "concurrent.futures": {"CancelledError"},
    "io": {"BytesIO"},
    "json": {"loads", "dumps", "JSONDecodeError"},
    "mmap": {"MADV_HUGEPAGE", "MAP_ANONYMOUS", "MAP_PRIVATE", "mmap"},  # memory, of no file
    "pathlib": {"Path", "PurePath", "PurePosixPath"},  # as types: FILE_CALLS are forbidden
    "pickle": {
        "HIGHEST_PROTOCOL",
        "PickleBuffer",
        "Pickler",
        "PicklingError",
        "UnpicklingError",
        "Unpickler",
        "dumps",
        "loads",
    },
    "random": {"Random"},  # as a type: who calls hands in the generator
    "signal": {"Signals"},  # numbers and names
    "sys": {"executable"},  # a constant
    "threading": {"local", "RLock", "current_thread", "main_thread"},  # no threads, but which one this is
}
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "Random"}
FILE_CALLS = {
    "chmod",
    "cwd",
    "exists",
    "expanduser",
    "glob",
    "home",
    "is_dir",
    "is_file",
    "iterdir",
    "mkdir",
    "open",
    "read_bytes",
    "read_text",
    "rename",
    "resolve",
    "rglob",
    "stat",
    "symlink_to",
    "touch",
    "unlink",
    "write_bytes",
    "write_text",
}

# Which half a module belongs to, by its first word. The rest is listed one by one.
LAUNCH = {"config", "dialects", "directives", "extensions", "scripts", "testing", "batch", "transport", "cluster"}
COMPUTE = {"comm", "client", "joblib", "scheduler", "worker"}
JOINING = {"head", "engines", "cli", "doctor", "mpi"}
JOINING_MODULES = {"__main__", "cluster.cluster", "cluster.current"}
SHARED = {"", "config.units", "errors", "data_files", "notes", "on_import", "rundir"}
# Client() finds or makes a cluster: the one place where a half reaches up, and only when it is called.
REACHES_UP = {("client.client", "cluster.current")}

TOO_HEAVY_FOR_A_WORKER = {"jinja2", "yaml", "click", "rich", "cryptography", "aiohttp", "psutil", "dask", "numpy"}


@cache
def modules() -> dict[str, Path]:
    """Return the package's modules by name, without ``hpclaunch.``; empty ``__init__`` files left out."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        words = path.relative_to(PACKAGE).with_suffix("").parts
        if words[-1] == "__init__":
            if not path.read_text().strip():
                continue
            words = words[:-1]
        found[".".join(words)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    """Return a module's syntax tree."""
    return ast.parse(modules()[module].read_text())


@cache
def nodes(module: str) -> list[ast.AST]:
    """Return all of a module's syntax tree."""
    return list(ast.walk(tree(module)))


@cache
def imports(module: str) -> list[tuple[str, str | None, bool]]:
    """Return (module, name or None, whether inside a function) for each import, wherever it stands."""
    functions = [node for node in nodes(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    nested = {node for function in functions for node in ast.walk(function)}
    found: list[tuple[str, str | None, bool]] = []
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found += [(alias.name, None, node in nested) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            found += [(str(node.module), alias.name, node in nested) for alias in node.names]
    return found


def own_imports(module: str) -> Iterator[tuple[str, bool]]:
    """Yield (module of ours, whether inside a function) for each of our own modules that a module imports."""
    for name, attribute, nested in imports(module):
        if name != "hpclaunch" and not name.startswith("hpclaunch."):
            continue
        short = name.removeprefix("hpclaunch").removeprefix(".")
        whole = f"{short}.{attribute}".removeprefix(".") if attribute else short
        yield (whole if whole in modules() else short), nested


def is_allowed(name: str) -> bool:
    """Say whether a module, or one of the packages that it is in, is in the list."""
    words = name.split(".")
    return any(".".join(words[:end]) in ALLOWED for end in range(1, len(words) + 1))


def half(module: str) -> str:
    """Return launch, compute, joining or shared."""
    first = module.partition(".")[0]
    if module in JOINING_MODULES or first in JOINING:
        return "joining"
    if module in SHARED:
        return "shared"
    return "launch" if first in LAUNCH else "compute" if first in COMPUTE else "nowhere"


# Each test goes through all modules and tells all that is wrong: a test for each module would take much longer.


def test_pure_modules_are_there() -> None:
    assert not PURE - modules().keys()


def impure_imports(module: str) -> Iterator[str]:
    for name, attribute, _ in imports(module):
        if name.startswith("hpclaunch"):
            continue
        if not is_allowed(name):
            yield name
        elif name in USED_PURELY and attribute is not None and attribute not in USED_PURELY[name]:
            yield f"{attribute} from {name}"
    for name, _ in own_imports(module):
        if name not in PURE:
            yield f"{name}, which is not pure"


def test_pure_modules_import_only_what_computes() -> None:
    assert not [f"{module} imports {what}" for module in sorted(PURE) for what in impure_imports(module)]


def impure_uses(module: str) -> Iterator[str]:
    for node in nodes(module):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                wrong = name in USED_PURELY and attribute not in USED_PURELY[name]
            case ast.Call(func=ast.Name(id=name)):
                wrong, attribute = name in FORBIDDEN_CALLS, "()"
            case ast.Call(func=ast.Attribute(attr=attribute)):
                wrong, name = attribute in FILE_CALLS, "..."
            case _:
                continue
        if wrong:
            yield f"{module}:{node.lineno}: {name} {attribute}"


def test_pure_modules_call_nothing_that_does() -> None:
    assert not [what for module in sorted(PURE) for what in impure_uses(module)]


def test_every_module_has_a_place() -> None:
    assert not [module for module in modules() if half(module) == "nowhere"], "say which half they belong to"


def test_the_halves_do_not_know_each_other() -> None:
    may = {
        "launch": {"launch", "shared"},
        "compute": {"compute", "shared"},
        "shared": {"shared"},
        "joining": {"launch", "compute", "shared", "joining"},
    }
    wrong = []
    for module in modules():
        for name, nested in own_imports(module):
            if (module, name) in REACHES_UP:
                assert nested, f"{module} must import {name} only when it needs it"
            elif half(name) not in may[half(module)]:
                wrong.append(f"{module} ({half(module)}) imports {name} ({half(name)})")
    assert not wrong


def test_the_rules_have_something_to_check() -> None:
    assert {half(module) for module in modules()} == {"launch", "compute", "joining", "shared"}
    assert any(name == "cluster.scaling" for name, _ in own_imports("cluster.ledger"))
    assert any(nested for module in modules() for _, nested in own_imports(module))


def loaded(*names: str) -> set[str]:
    """Return the top-level modules that a fresh Python has after importing modules of ours."""
    lines = [f"import {name}" for name in names]
    code = "; ".join([*lines, "import sys", "print(*{name.partition('.')[0] for name in sys.modules})"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def third_party(names: set[str]) -> set[str]:
    """Return those that are neither the standard library's nor what Python's start-up brings in."""
    return names - set(sys.stdlib_module_names) - loaded() - {"hpclaunch"}


def test_import_hpclaunch_imports_nothing_heavy() -> None:
    names = loaded("hpclaunch")
    assert third_party(names) == set()
    assert not names & {"asyncio", "multiprocessing", "ssl", "socket", "logging"}


def test_a_rank_that_serves_imports_next_to_nothing() -> None:
    """A thousand ranks read their files from one file server, all at once."""
    names = loaded("hpclaunch.mpi.api")
    assert third_party(names) == set()
    assert not names & {"asyncio", "ssl", "multiprocessing", "email", "http"}


def test_a_worker_imports_only_what_tasks_need() -> None:
    worker = [f"hpclaunch.{name}" for name in modules() if name.partition(".")[0] == "worker"]
    names = loaded(*worker, "hpclaunch.comm.connection", "hpclaunch.comm.serialize")
    assert {"msgspec", "asyncio"} <= names
    assert not names & TOO_HEAVY_FOR_A_WORKER


def test_the_client_needs_nothing_of_the_launch_half() -> None:
    code = "from hpclaunch import Client, Future, as_completed, progress, wait; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    ours = {each.removeprefix("hpclaunch.") for each in done.stdout.split() if each.startswith("hpclaunch.")}
    assert not {each for each in ours if each.partition(".")[0] in LAUNCH | JOINING}


# Style that a reader relies on


def unreadable(module: str) -> Iterator[str]:
    if not ast.get_docstring(tree(module)):
        yield f"{module} does not say what it is for"
    if modules()[module].read_text().count("\n") >= 600:
        yield f"{module} is too long"
    for node in nodes(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno >= 60:
                yield f"{module}.{node.name} is too long"


def test_modules_are_readable() -> None:
    assert not [what for module in modules() for what in unreadable(module)]


def test_modules_are_named_for_what_they_own() -> None:
    vague = {"util", "utils", "helper", "helpers", "manager", "misc", "common"}
    assert not [module for module in modules() if vague & set(module.split("."))]


def text_files() -> Iterator[Path]:
    """Yield the project's own text files, as Git knows them; outside of Git, its folders' files."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        done = None
    names = done.stdout.splitlines() if done and done.returncode == 0 else None
    paths = [ROOT / name for name in names] if names else [p for p in PACKAGE.rglob("*") if p.is_file()]
    assert len(paths) > 50
    for path in paths:
        if path.is_file() and b"\0" not in path.read_bytes():
            yield path


def test_no_file_knows_where_it_was_written() -> None:
    places = [str(ROOT), f"{install.HOME.rstrip('/')}/"]
    for path in text_files():
        text = path.read_text()
        for place in places:
            assert len(place) < 4 or place not in text, f"{path.relative_to(ROOT)} mentions {place}"
