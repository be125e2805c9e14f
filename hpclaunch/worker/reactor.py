"""What a worker does about each thing that happens. Pure: facts in, commands out.

Every task that the head sends gets exactly one answer, whatever happens, for the head counts on that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hpclaunch.comm import messages as m
from hpclaunch.comm.serialize import Payload
from hpclaunch.worker.commands import Command, DeleteFile, Execute, FetchInput, TakeBack, ToHead, WriteResult
from hpclaunch.worker.memory import Limits
from hpclaunch.worker.state import FetchingTask, Version, WorkerState


class WorkerReactor:
    """Applies facts to ``state`` and collects commands, which the shell takes by :meth:`take_commands`."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - a tuple
        self.state = WorkerState(limits)
        self._commands: list[Command] = []
        self._now = 0.0  # when memory was measured last

    def take_commands(self) -> list[Command]:
        """Return what is to be done for the facts since the last call."""
        commands, self._commands = self._commands, []
        return commands

    def on_function_defined(self, function: bytes, callee: Any, size: int = 0) -> None:
        """The head sent a function of ``size`` bytes; ``callee`` is what the shell knows it by."""
        self.state.functions[function] = callee
        self.state.sizes[function] = size
        self.state.ledger.functions += size
        self._write_some()

    def on_functions_forgotten(self, message: m.ForgetFunctions) -> None:
        """The head will send these again if they are needed again. Tasks that are here keep theirs."""
        for function in message.functions:
            self.state.functions.pop(function, None)
            self.state.ledger.functions -= self.state.sizes.pop(function, 0)

    # What was expected is taken though this worker pauses: that may be for its arguments, which the head has found
    # to fit, and given back it would come again.

    def on_tasks_sent(self, message: m.RunTasks) -> None:
        """The head sent tasks without inputs."""
        if self.state.ledger.paused and not self.state.expected.issuperset(message.keys):
            self._commands.append(ToHead(m.TasksReturned(message.keys)))
            return
        callee = self.state.functions[message.function]
        self._commands.append(Execute(callee, message.keys, message.args, None))

    def on_task_sent(self, message: m.RunTask) -> None:
        """The head sent a task with inputs."""
        if self.state.ledger.paused and message.key not in self.state.expected:
            self._commands.append(ToHead(m.TasksReturned([message.key])))
            return
        task = FetchingTask(message.key, self.state.functions[message.function], message.args)
        for one in message.inputs:
            if one.data is not None:
                task.inputs[one.key] = one.data
            elif self._has(one.key, one.order):
                task.inputs[one.key] = self.state.store[one.key]
                self.state.ledger.use(one.key)
            else:
                version = one.key, one.order
                task.missing.add(version)
                waiting = self.state.waiting_for.setdefault(version, [])
                waiting.append(task)
                if len(waiting) == 1:
                    self._commands.append(FetchInput(one.key, one.holders, one.order))
        if task.missing:
            self.state.fetching[task.key] = task
        else:
            self._execute(task)

    def on_result_shared(self, key: str, file: Any) -> Any:
        """A result was copied into a file that other processes of this host can open: keep that instead."""
        self.state.store[key] = file
        self.state.ledger.use(key)
        return file

    def on_input_arrived(self, key: str, order: int, payload: Any) -> None:
        """A holder sent the result of task ``key``; it is kept as a copy for later tasks.

        Not if another of this key is here: that was made here, or the head will say what becomes of it.
        """
        if key not in self.state.store:
            self._keep(key, payload)
            self.state.copies[key] = order
            self._commands.append(ToHead(m.CopiesHeld([key], [order])))
        for task in self.state.waiting_for.pop((key, order), ()):
            task.inputs[key] = payload
            task.missing.discard((key, order))
            if not task.missing:
                del self.state.fetching[task.key]
                self._execute(task)

    def on_value_brought(self, key: str, order: int, value: Any, client: str) -> bool:
        """A client has brought a value of its own; say whether it is kept: not if another of this key is here."""
        if key in self.state.store:
            return False
        self._keep(key, value)
        self.state.copies[key] = order
        self._commands.append(ToHead(m.Brought(key, order, value.size, client)))
        return True

    def on_copies_wanted(self, message: m.KeepCopies) -> None:
        """The head wants copies of results here, for those who hold them are about to end."""
        for key, holders, order in zip(message.keys, message.holders, message.orders, strict=True):
            if self._has(key, order):
                self._commands.append(ToHead(m.CopiesHeld([key], [order])))
            elif (key, order) not in self.state.waiting_for:  # else it is on its way already
                self._commands.append(FetchInput(key, holders, order))

    def _has(self, key: str, order: int) -> bool:
        """Say whether the result of a certain task is here."""
        return key in self.state.store and self.state.copies.get(key, order) == order

    def on_input_missing(self, key: str, order: int, asked: Sequence[str]) -> None:
        """None of these holders gave the result of task ``key``: give the tasks back that need it."""
        for task in self.state.waiting_for.pop((key, order), ()):
            self._abandon(task, but=(key, order))
            self._commands.append(ToHead(m.InputMissing(task.key, [key], list(asked))))

    def on_recall(self, count: int) -> None:
        """The head wants up to ``count`` tasks back that have not started: first those that still fetch."""
        taken = list(self.state.fetching)[-count:] if count > 0 else []
        for key in taken:
            self._abandon(self.state.fetching[key])
        if taken:
            self._commands.append(ToHead(m.TasksReturned(taken)))
        # Also when nothing is left to take: the head waits for an answer.
        self._commands.append(TakeBack(count - len(taken), frozenset()))

    def on_drop(self, keys: Sequence[str]) -> None:
        """The head does not want these tasks started any more."""
        fetching = [key for key in dict.fromkeys(keys) if key in self.state.fetching]
        for key in fetching:
            self._abandon(self.state.fetching[key])
        if fetching:
            self._commands.append(ToHead(m.TasksReturned(fetching)))
        queued = frozenset(keys).difference(fetching)
        if queued:
            self._commands.append(TakeBack(0, queued))

    def on_withdrawn(self, keys: Iterable[str]) -> list[str]:
        """The head wants those of some tasks back that have not begun; return those that still fetched inputs."""
        taken = [key for key in keys if key in self.state.fetching]
        for key in taken:
            self._abandon(self.state.fetching[key])
        return taken

    def on_result_stored(self, key: str, payload: Payload) -> None:
        """A task's result is too large to travel to the head."""
        self._keep(key, payload)

    def on_actor_made(self, key: str, address: Payload) -> None:
        """A task has made an actor: its address is small, and never goes to disk."""
        self._forget(key)
        self.state.store[key] = address
        self.state.pinned.add(key)

    def on_results_freed(self, message: m.FreeResults) -> None:
        """These results are not wanted any more, or copies of those of certain tasks."""
        for key, order in zip(message.keys, message.orders or message.keys, strict=True):
            if not message.orders or self.state.copies.get(key) == order:
                self._forget(key)

    # --- memory

    def on_memory_measured(self, process: int, now: float) -> None:
        """The process has so many bytes: write results to disk, pause or go on."""
        ledger = self.state.ledger
        ledger.process, self._now = process, now
        self._write_some()
        self._judge()

    def on_result_written(self, key: str, payload: Any, file: Any) -> None:
        """A result is on disk."""
        if not self._is_being_written(key, payload):
            self._commands.append(DeleteFile(file))
            return
        self.state.store[key] = file
        self.state.ledger.written(key)

    def on_result_not_written(self, key: str, payload: Any, why: str) -> None:
        """A result stays in memory: the disk did not take it."""
        if self._is_being_written(key, payload):
            self.state.ledger.not_written(key, why, self._now)
            self._judge()

    def _is_being_written(self, key: str, payload: Any) -> bool:
        """Say whether a result is still one that is being written: not freed, made or fetched again meanwhile."""
        return self.state.store.get(key) is payload and key in self.state.ledger.writing.sizes

    def on_result_unreadable(self, key: str, file: Any) -> None:
        """A result's file is gone."""
        if self.state.store.get(key) is file:
            self._forget(key)

    def _keep(self, key: str, payload: Any) -> None:
        self._forget(key)
        self.state.store[key] = payload
        self.state.ledger.add(key, payload.size)
        self._write_some()

    def _forget(self, key: str) -> None:
        value = self.state.store.pop(key, None)
        if value is not None:
            if key in self.state.ledger.disk.sizes:
                self._commands.append(DeleteFile(value))
            self.state.ledger.remove(key)
            self.state.pinned.discard(key)
            self.state.copies.pop(key, None)

    def _write_some(self) -> None:
        for key in self.state.ledger.choose(self._now):
            self._commands.append(WriteResult(key, self.state.store[key]))

    def _judge(self) -> None:
        """Pause or go on; when it pauses, the head is told first, so that it sends nothing back here."""
        was = self.state.ledger.paused
        if self.state.ledger.judge() != was:
            self._commands.append(ToHead(m.WorkerPaused(not was, self.memory_in_words())))
            if not was:
                self.on_recall(1 << 30)

    def memory_in_words(self) -> str:
        """Say how much memory there is and what has it."""
        ledger = self.state.ledger
        limits = ledger.limits
        text = (
            f"the process has {ledger.process / 1e6:.0f} MB of {limits.memory / 1e6:.0f} MB (pause is "
            f"{limits.pause / 1e6:.0f} MB), {ledger.managed / 1e6:.0f} MB of it results and functions; "
            f"{ledger.disk.total / 1e6:.0f} MB are on disk"
        )
        return text + (f", which takes no more: {ledger.disk_trouble}" if ledger.disk_trouble else "")

    def _execute(self, task: FetchingTask) -> None:
        self._commands.append(Execute(task.function, [task.key], [task.args], task.inputs))

    def _abandon(self, task: FetchingTask, but: Version | None = None) -> None:
        """Take a task out of everything that waits; ``but`` is the input whose list is being walked."""
        self.state.fetching.pop(task.key, None)
        for version in task.missing:
            if version != but:
                waiting = self.state.waiting_for[version]
                waiting.remove(task)
                if not waiting:
                    del self.state.waiting_for[version]
        task.missing.clear()
