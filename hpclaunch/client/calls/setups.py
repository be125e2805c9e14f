"""What a client registers for all workers, now and later: plugins with code of the user's, and files to import."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hpclaunch.comm import serialize
from hpclaunch.comm.messages import MAX_SETUP_BYTES, Failure
from hpclaunch.comm.texts import checked_text
from hpclaunch.errors import SetupError, UserError
from hpclaunch.link.facade import blocking

if TYPE_CHECKING:
    from hpclaunch.client.client import Client
    from hpclaunch.tasks.context import WorkerFacts


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
        from hpclaunch.worker.questions import takes_worker

        return self.function(dask_worker=worker) if takes_worker(self.function) else self.function()


class SetUpCalls:
    """The part of a Client that registers set-ups."""

    @blocking
    def register_plugin(
        self, plugin: Any, name: str | None = None, idempotent: bool | None = None
    ) -> dict[str, dict[str, str]]:
        """Have a plugin set up each worker, now and later, before any task runs there: see :class:`WorkerPlugin`.

        It stays registered until it is unregistered, or the cluster ends: workers that are added or replaced, also
        by :meth:`restart`, are set up too. With no worker it is registered for those to come.

        :param name: what it is known by; None is ``plugin.name``, or a new name.
        :param idempotent: do nothing if there is one of this name; None is ``plugin.idempotent``, or False. Else
            it replaces that one, which is torn down before.
        :returns: ``{"status": "OK"}`` for each worker that is there.
        :raises SetupError: its ``setup`` raised on a worker, or three workers ended meanwhile. It is not
            registered then, and torn down where it worked.
        :raises SerializationError: it can't be pickled.
        :raises UserError: it is too large for the head to keep.
        """
        if isinstance(plugin, type) or not callable(getattr(plugin, "setup", None)):
            raise TypeError(f"a worker plugin is an object with a method setup(worker), not {plugin!r}")
        if name is None:
            name = getattr(plugin, "name", None) or f"{type(plugin).__name__}-{secrets.token_hex(4)}"
        if not isinstance(name, str) or not name.isprintable():
            raise TypeError(f"the name of a plugin is a text in one line, not {name!r}")
        if idempotent is None:
            idempotent = bool(getattr(plugin, "idempotent", False))
        return _register(self, "plugin", name, serialize.dump_inline(plugin), idempotent=idempotent)

    def register_worker_plugin(self, plugin: Any, name: str | None = None, nanny: bool | None = None) -> Any:
        """As :meth:`register_plugin`.

        :raises UserError: ``nanny`` is asked for.
        """
        if nanny:
            raise UserError(
                "a plugin for the process that watches over workers is refused: it runs no code of users"
            )
        return self.register_plugin(plugin, name)

    def register_worker_callbacks(self, setup: Callable[..., Any]) -> Any:
        """Have a function called once in each worker process, now and later, before any task runs there.

        A parameter ``dask_worker`` of it is given what :func:`hpclaunch.get_worker` gives tasks.

        :raises SetupError: it raised on a worker.
        """
        if not callable(setup):
            raise TypeError(f"setup= is a function, not {setup!r}")
        plugin = _Callbacks(setup)
        digest = hashlib.blake2b(serialize.dump_inline(plugin), digest_size=8).hexdigest()
        return self.register_plugin(plugin, f"{getattr(setup, '__name__', 'setup')}-{digest}")

    @blocking
    def unregister_worker_plugin(self, name: str, nanny: bool | None = None) -> dict[str, dict[str, str]]:
        """Tear a plugin down on all workers; those to come do not get it.

        :raises UserError: no plugin has this name.
        :raises SetupError: its ``teardown`` raised on a worker; it is unregistered all the same.
        """
        answers = _client(self)._ask("unregister_setup", kind="plugin", name=name)
        return _checked(answers, f"plugin {name!r} can't be torn down", "It is unregistered all the same.")

    @blocking
    def has_plugin(self, plugin: Any) -> Any:
        """Say whether a plugin is registered, by its name or itself; for a list of them, a dict by name."""
        known = set(_client(self)._ask("plugins"))
        if isinstance(plugin, list | tuple | set):
            return {_name_of(one): _name_of(one) in known for one in plugin}
        return _name_of(plugin) in known

    @blocking
    def upload_file(self, filename: str | os.PathLike[str], load: bool = True) -> None:
        """Send a .py, .zip, .egg or .whl file to all workers, now and later, to be imported there.

        Workers that are added or replaced, also by :meth:`restart`, have it before any task runs there.

        A changed file of the same name replaces the one before: what was imported from that is loaded again, with
        the uploaded modules that import it. Other modules that hold its functions and classes get the new ones.

        :param load: accepted, and not needed: a module is loaded by the first task that imports it, and again by
            each upload that changes it.
        :raises UserError: it is of another kind, or too large for the head to keep.
        :raises SetupError: a module raised when it was loaded again; workers keep the one before.
        """
        path = Path(filename)
        if path.suffix not in (".py", ".zip", ".egg", ".whl"):
            raise UserError(f"{path.name!r} can't be imported: upload_file takes .py, .zip, .egg and .whl files")
        checked_text("the file's name", path.name)
        _check_size("file", path.name, path.stat().st_size)
        _register(self, "file", path.name, path.read_bytes(), idempotent=False)


def _register(
    calls: SetUpCalls, kind: str, name: str, data: bytes, *, idempotent: bool
) -> dict[str, dict[str, str]]:
    client = _client(calls)
    _check_size(kind, name, len(data))
    answers = client._ask("register_setup", kind=kind, name=name, data=data, idempotent=idempotent)
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


def _client(calls: SetUpCalls) -> Client:
    return cast("Client", calls)
