"""What a client registers for all workers, now and later: plugins with code of the user's, and files to import."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpclaunch.comm import serialize
from hpclaunch.comm.messages import MAX_SETUP_BYTES, Failure
from hpclaunch.comm.texts import checked_text
from hpclaunch.errors import SetupError, UserError
from hpclaunch.link.head_link import HeadLink
from hpclaunch.tasks.context import WorkerFacts, takes_worker


class WorkerPlugin:
    """What is done in each worker process before its first task, and after its last. Inherit, and override.

    An object of any class will do that has ``setup``. It is pickled once, and each worker unpickles its own. On a
    worker it is ``get_worker().plugins[name]``.
    """

    #: The plugin's name: another one of this name replaces it. None: one is made up.
    name: str | None = None

    def setup(self, worker: WorkerFacts) -> Any:
        """Prepare a worker, in a thread beside its tasks. May be an ``async def``."""

    def teardown(self, worker: WorkerFacts) -> Any:
        """Undo :meth:`setup`: when the plugin is unregistered or replaced, and when a worker ends in order."""


class _Callbacks(WorkerPlugin):
    """A function as a plugin."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def setup(self, worker: WorkerFacts) -> Any:
        return self.function(dask_worker=worker) if takes_worker(self.function) else self.function()


def register_plugin(
    link: HeadLink, plugin: Any, name: str | None, idempotent: bool | None
) -> dict[str, dict[str, str]]:
    """Have a plugin set up each worker: see :meth:`hpclaunch.Client.register_plugin`."""
    if isinstance(plugin, type) or not callable(getattr(plugin, "setup", None)):
        raise TypeError(f"a worker plugin is an object with a method setup(worker), not {plugin!r}")
    if name is None:
        name = getattr(plugin, "name", None) or f"{type(plugin).__name__}-{secrets.token_hex(4)}"
    if not isinstance(name, str) or not name.isprintable():
        raise TypeError(f"the name of a plugin is a text in one line, not {name!r}")
    if idempotent is None:
        idempotent = bool(getattr(plugin, "idempotent", False))
    return _register(link, "plugin", name, serialize.dump_inline(plugin), idempotent=idempotent)


def plugin_of(setup: Callable[..., Any]) -> tuple[WorkerPlugin, str]:
    """Return a plugin that calls a function, and its name, which equal functions share."""
    if not callable(setup):
        raise TypeError(f"setup= is a function, not {setup!r}")
    plugin = _Callbacks(setup)
    digest = hashlib.blake2b(serialize.dump_inline(plugin), digest_size=8).hexdigest()
    return plugin, f"{getattr(setup, '__name__', 'setup')}-{digest}"


def unregister_plugin(link: HeadLink, name: str) -> dict[str, dict[str, str]]:
    """Tear a plugin down on all workers: see :meth:`hpclaunch.Client.unregister_worker_plugin`."""
    answers = link.ask("unregister_setup", kind="plugin", name=name)
    return _checked(answers, f"plugin {name!r} can't be torn down", "It is unregistered all the same.")


def has_plugin(link: HeadLink, plugin: Any) -> Any:
    """Say whether plugins are registered: see :meth:`hpclaunch.Client.has_plugin`."""
    known = set(link.ask("plugins"))
    if isinstance(plugin, list | tuple | set):
        return {_name_of(one): _name_of(one) in known for one in plugin}
    return _name_of(plugin) in known


def upload_file(link: HeadLink, filename: str | os.PathLike[str]) -> None:
    """Send a file to all workers: see :meth:`hpclaunch.Client.upload_file`."""
    path = Path(filename)
    if path.suffix not in (".py", ".zip", ".egg", ".whl"):
        raise UserError(f"{path.name!r} can't be imported: upload_file takes .py, .zip, .egg and .whl files")
    checked_text("the file's name", path.name)
    _check_size("file", path.name, path.stat().st_size)
    _register(link, "file", path.name, path.read_bytes(), idempotent=False)


def _register(link: HeadLink, kind: str, name: str, data: bytes, *, idempotent: bool) -> dict[str, dict[str, str]]:
    _check_size(kind, name, len(data))
    answers = link.ask("register_setup", kind=kind, name=name, data=data, idempotent=idempotent)
    what = f"{name} can't be loaded" if kind == "file" else f"plugin {name!r} can't set up"
    return _checked(answers, what, "It is not registered; what was registered before is as it was.")


def _check_size(kind: str, name: str, size: int) -> None:
    if size > MAX_SETUP_BYTES:
        raise UserError(
            f"{kind} {name!r} has {size / 1e6:.1f} MB; the head keeps {MAX_SETUP_BYTES / 1e6:.0f} MB of files and "
            "plugins for workers. Scatter large data, or put it into a file that all hosts see"
        )


def _checked(answers: dict[str, Any], what: str, then: str) -> dict[str, dict[str, str]]:
    """Return the answers of workers in Dask's form.

    :raises SetupError: one has failed; chained to what it raised there.
    """
    failures = {worker: Failure(*rest) for worker, (is_done, *rest) in answers.items() if not is_done}
    if not failures:
        return {worker: {"status": "OK"} for worker in answers}
    (worker, failure), *others = failures.items()
    where = f"on {len(failures)} workers, first on {worker}" if others else f"on worker {worker}"
    raise SetupError(f"{what} {where}: {failure.text}. {then}") from serialize.load_failure(failure)


def _name_of(plugin: Any) -> str:
    return plugin if isinstance(plugin, str) else str(getattr(plugin, "name", None))
