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

import hpclaunch
from hpclaunch import errors

from .testbed import install

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hpclaunch"

# Pure: (state, event, now) -> commands. No I/O, clock, randomness or environment.
PURE = {
    "batch.base",
    "batch.local",
    "batch.sge",
    "batch.slurm",
    "clocks",
    "jobs.policy",
    "jobs.adaptive",
    "jobs.backoff",
    "jobs.book",
    "jobs.ceiling",
    "jobs.commands",
    "jobs.expiry",
    "jobs.following",
    "jobs.job",
    "jobs.ledger",
    "jobs.lifecycle",
    "jobs.reasons",
    "jobs.scaling",
    "jobs.submissions",
    "jobs.verdict",
    "jobs.watch",
    "comm.buffers",
    "comm.class_copies",
    "comm.framing",
    "comm.keys",
    "comm.messages",
    "comm.registry",
    "comm.roles",
    "comm.serialize",
    "comm.texts",
    "comm.turns",
    "comm.unpickling",
    "config.paths",
    "config.readings",
    "config.schema",
    "config.shellwords",
    "config.units",
    "config.values",
    "config.worker_options",
    "dialects",
    "directives",
    "doctor.findings",
    "doctor.page",
    "errors",
    "mpi.arguments",
    "mpi.launch",
    "mpi.roles",
    "scheduler.actors",
    "transport.base",
    "scheduler.batches",
    "scheduler.client_events",
    "scheduler.commands",
    "scheduler.coordination",
    "scheduler.demand",
    "scheduler.eligibility",
    "scheduler.evacuation",
    "scheduler.function",
    "scheduler.invariants",
    "scheduler.job_runs",
    "scheduler.large_functions",
    "scheduler.lifecycle",
    "scheduler.load",
    "scheduler.memory_pressure",
    "scheduler.multilocks",
    "scheduler.oversized",
    "scheduler.passes",
    "scheduler.placement",
    "scheduler.reactor",
    "scheduler.rebalance",
    "scheduler.recall",
    "scheduler.reference_counts",
    "scheduler.reference_cycles",
    "scheduler.references",
    "scheduler.requirements",
    "scheduler.restricted",
    "scheduler.scattered",
    "scheduler.sizes",
    "scheduler.state",
    "scheduler.timeouts",
    "scheduler.updates",
    "scheduler.why",
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
LAUNCH = {
    "inherited",
    "config", "dialects", "directives", "extensions", "scripts", "testing", "batch", "transport", "jobs", "cluster"
}  # fmt: skip
COMPUTE = {"comm", "client", "joblib", "link", "scheduler", "tasks", "worker"}
JOINING = {"head", "engines", "cli", "doctor", "mpi"}
JOINING_MODULES = {"", "__main__", "cluster.cluster", "cluster.local", "cluster.shutdown"}
SHARED = {
    "cgroup", "clocks", "config.units", "current_cluster", "data_files", "errors", "file_errors", "heartbeat",
    "homes", "marks", "notes", "on_import", "process_limits", "remains", "rundir", "safepath", "trusted",
}  # fmt: skip

# The layers, from the bottom up: packages and modules, of which each may import those before it, and a package its
# own modules. What an import is for does not matter: those inside functions and those for type checkers count too.
LAYERS = (
    "errors",
    "notes",
    "on_import",
    "data_files",
    "cgroup",
    "clocks",
    "file_errors",
    "homes",
    "process_limits",
    "safepath",
    "trusted",
    "current_cluster",
    "directives",
    "dialects",
    "extensions",
    "config",
    "rundir",
    "heartbeat",
    "remains",
    "marks",
    # tasks
    "comm",
    "tasks",  # what a worker and a client share of a task
    "link",  # a client's way to the head
    "client.gc_pause",
    "client.current",
    "client.futures",
    "client.core",
    "client.submission",
    "client.calls",
    "client.signatures",
    "client.coordination",
    "client.graphs",
    "client.integrations",
    "client.lifetime",
    "client.client",
    "client.lookup",
    "joblib",
    "scheduler",
    "worker",
    # jobs
    "transport",
    "batch",
    "jobs",
    "scripts",
    "inherited",
    "testing",
    # both
    "engines",
    "head",
    "cluster",
    "mpi",
    "doctor",
    "cli",
    "",  # the public names
    "__main__",
)

# Imports that point up, each for a reason.
POINTS_UP = {
    ("current_cluster", "cluster.local"): "Client() finds or makes a cluster, when it is called without one",
    ("extensions", "batch.base"): "what an entry point gives is checked to be a codec",
    ("cli.main", ""): "the version",
    ("doctor.probe", ""): "the version",
    ("doctor.trial", ""): "the version",
    ("mpi.start", ""): "the version",
}

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
            if (module, name) in POINTS_UP:
                assert nested or half(module) == "joining", f"{module} must import {name} only when it needs it"
            elif half(name) not in may[half(module)]:
                wrong.append(f"{module} ({half(module)}) imports {name} ({half(name)})")
    assert not wrong


def test_the_rules_have_something_to_check() -> None:
    assert {half(module) for module in modules()} == {"launch", "compute", "joining", "shared"}
    assert any(name == "jobs.scaling" for name, _ in own_imports("jobs.ledger"))
    assert any(nested for module in modules() for _, nested in own_imports(module))


def layer(module: str) -> str:
    """Return the layer that a module is in: the longest of those that it is, or is below."""
    words = module.split(".")
    for end in range(len(words), 0, -1):
        if (name := ".".join(words[:end])) in LAYERS:
            return name
    return "nowhere"


def test_every_module_is_in_a_layer() -> None:
    assert not [module for module in modules() if layer(module) == "nowhere"]
    assert not [name for name in LAYERS if not any(layer(module) == name for module in modules())]


def test_imports_point_down() -> None:
    height = {name: number for number, name in enumerate(LAYERS)}
    wrong, up = [], set()
    for module in modules():
        mine = layer(module)
        for name in {name for name, _ in own_imports(module) if name in modules()}:
            its = layer(name)
            if height[its] > height[mine]:
                up.add((module, name))
                if (module, name) not in POINTS_UP:
                    wrong.append(f"{module} ({mine}) imports {name} ({its}), which is above it")
    assert not wrong
    assert up == POINTS_UP.keys(), "an exception that is not needed"


def circles() -> list[set[str]]:
    """Return the sets of modules that import one another in a circle, but for what points up for a reason."""
    imported = {
        module: {name for name, _ in own_imports(module) if name in modules() and name != module}
        for module in modules()
    }
    for module, name in POINTS_UP:
        imported[module].discard(name)
    left = dict(imported)
    while ends := {module for module, names in left.items() if not names & left.keys()}:
        left = {module: names for module, names in left.items() if module not in ends}
    reached = {module: reach(module, left) for module in left}
    found = {frozenset({one for one in reached[module] if module in reached[one]}) for module in left}
    return [set(circle) for circle in found if circle]


def reach(module: str, imported: dict[str, set[str]]) -> set[str]:
    """Return all that a module imports, and what that imports."""
    found: set[str] = set()
    todo = [module]
    while todo:
        new = imported[todo.pop()] & imported.keys() - found
        found |= new
        todo += new
    return found


def test_no_files_import_one_another_in_a_circle() -> None:
    assert not [sorted(circle) for circle in circles()]


def private_names(package: str) -> set[str]:
    """Return the names that a package defines."""
    found = set()
    for module in modules():
        if module.partition(".")[0] != package:
            continue
        for node in nodes(module):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                    found.add(name)
                case ast.Name(id=name, ctx=ast.Store()):
                    found.add(name)
    return found


# Private names of Python and of cloudpickle for which there are no public ones.
PRIVATE_ELSEWHERE = {
    "_current_frames",
    "_exit",
    "_getframe",
    "_register_atexit",
    "_replace",
    "_DYNAMIC_CLASS_TRACKER_BY_CLASS",
    "_DYNAMIC_CLASS_TRACKER_BY_ID",
    "_DYNAMIC_CLASS_TRACKER_LOCK",
}


def foreign_names(module: str, own: set[str]) -> Iterator[str]:
    for node in nodes(module):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name):
                is_foreign = name not in own | PRIVATE_ELSEWHERE
            case ast.alias(name=name):
                is_foreign = name not in own
            case _:
                continue
        if is_foreign and name.startswith("_") and not name.startswith("__"):
            yield f"{module}:{node.lineno}: {name}"


def test_packages_leave_the_private_names_of_others_alone() -> None:
    names = {package: private_names(package) for package in {module.partition(".")[0] for module in modules()}}
    assert not [what for module in modules() for what in foreign_names(module, names[module.partition(".")[0]])]


def test_the_public_names_are_those_that_type_checkers_see() -> None:
    """They are listed twice: for type checkers, and for Python, which imports each when it is first used."""
    for_checkers = {attribute: name for name, attribute, _ in imports("") if name.startswith("hpclaunch.")}
    assert set(hpclaunch.__all__) - {"__version__"} == for_checkers.keys()
    for name, module in for_checkers.items():
        assert getattr(hpclaunch, name) is getattr(sys.modules[module], name), f"{name} is not that of {module}"
    known = error_classes(errors.HPCLaunchError)
    assert {error.__name__ for error in known if error.__module__ == errors.__name__} <= for_checkers.keys()


def error_classes(base: type[Exception]) -> set[type[Exception]]:
    """Return an error class and all that inherit it."""
    return {base}.union(*map(error_classes, base.__subclasses__()))


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
