"""What a worker notes of the tasks that it receives something for, and what its supervisor reads of it."""

from __future__ import annotations

from hpclaunch.worker.arrivals import PLACES, Arrivals, has_run_tasks, read_arrivals, shared_bytes
from hpclaunch.worker.executor import SLOT_BYTES, read_slots

THREADS = 2


def test_what_is_shown_is_read() -> None:
    slots = bytearray(shared_bytes(THREADS))
    arrivals = Arrivals(slots, THREADS)
    assert read_arrivals(bytes(slots), THREADS) == []
    arrivals.show(["a", "b", "b"])
    assert read_arrivals(bytes(slots), THREADS) == ["a", "b"]
    arrivals.show(["c"])
    assert read_arrivals(bytes(slots), THREADS) == ["c"]
    arrivals.show([])
    assert read_arrivals(bytes(slots), THREADS) == []
    assert read_slots(bytes(slots), THREADS) == []
    assert not any(slots[: THREADS * SLOT_BYTES])


def test_the_first_of_many_are_noted() -> None:
    slots = bytearray(shared_bytes(THREADS))
    keys = [f"key-{i}" * 100 for i in range(2 * PLACES)]
    Arrivals(slots, THREADS).show(iter(keys))
    slots[-1] = 3  # how the process ended, behind all of them
    assert read_arrivals(bytes(slots), THREADS) == [key[: SLOT_BYTES - 2] for key in keys[:PLACES]]


def test_a_process_that_has_run_a_task() -> None:
    slots = bytearray(shared_bytes(THREADS))
    Arrivals(slots, THREADS).show(["a"])
    assert not has_run_tasks(bytes(slots), THREADS)
    slots[SLOT_BYTES : SLOT_BYTES + 5] = b"\3\0key"
    slots[SLOT_BYTES : SLOT_BYTES + 2] = b"\0\0"  # as the executor does when it has ended
    assert has_run_tasks(bytes(slots), THREADS)
    assert read_slots(bytes(slots), THREADS) == []
