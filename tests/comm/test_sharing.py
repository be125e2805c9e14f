"""Results in files that processes of one host share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from hpclaunch.comm import sharing
from hpclaunch.comm.serialize import Payload, dump_value, load_value
from hpclaunch.comm.sharing import Shared, open_shared, share


def files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_a_result_is_shared_without_a_copy_and_changes_are_ones_own() -> None:
    before = files()
    array = np.arange(300_000.0)
    ours = share(dump_value(array))
    theirs = open_shared(ours.place, ours.inode, ours.lengths)
    one, other = load_value(*theirs.read()), load_value(*theirs.read())
    assert (one == array).all()
    assert one.flags.aligned
    assert not one.flags.owndata
    one[:] = 0
    del ours, theirs
    assert (other == array).all()  # also after the files are closed
    del one, other
    assert files() == before


def test_what_is_shared_cannot_be_changed_or_cut_short() -> None:
    ours = share(Payload(b"pickle", [b"x" * 10_000]))
    writable = os.open(ours.place, os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            os.pwrite(writable, b"y", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(writable, 1)
    finally:
        os.close(writable)


def test_what_is_not_the_same_any_more_is_an_error(tmp_path: Path) -> None:
    ours = share(Payload(b"pickle", [b"x" * 10_000]))
    place, inode, lengths = ours.place, ours.inode, ours.lengths
    before = files()
    for wrong in [
        (place, inode + 1, lengths),
        (place, inode, (10**9,)),
        (place, inode, ()),
        ("/dev/null", 1, (1,)),
    ]:
        with pytest.raises(OSError, match="not the result"):
            open_shared(*wrong)
    assert files() == before
    del ours
    with pytest.raises(OSError):
        open_shared(place, inode, lengths)


def test_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_MOST_FILES", Shared.alive)
    with pytest.raises(OSError, match="too many"):
        share(Payload(b"p", [b"x"]))


def test_processes_of_one_host_know_each_other() -> None:
    assert sharing.node_id()
    assert sharing.node_id() == sharing.node_id()
