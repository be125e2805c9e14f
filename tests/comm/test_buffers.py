"""Memory for large buffers."""

from __future__ import annotations

import mmap

import pytest

from hpclaunch.comm import buffers
from hpclaunch.comm.buffers import allocate, allocate_pieces, copy_of


def address(view: memoryview) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(view))


@pytest.mark.parametrize("size", [0, 1, 100, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 20_000_001])
def test_memory_is_writable_and_of_the_size_asked_for(size: int) -> None:
    memory = allocate(size)
    assert memory.nbytes == size
    assert not memory.readonly
    assert not any(memory[:: max(1, size // 100)])
    memory[:] = b"x" * size
    copy = copy_of(memory.toreadonly())
    assert copy == memory
    copy[:1] = b"y" * min(1, size)
    assert size == 0 or memory[0] == ord("x")


def test_large_memory_is_asked_for_in_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    advice: list[int] = []

    class Memory(buffers.OwnPages):
        def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
            advice.append(option)
            raise OSError("a kernel without them")

    monkeypatch.setattr(buffers, "OwnPages", Memory)
    assert allocate(5 << 20).nbytes == 5 << 20
    assert advice == [mmap.MADV_HUGEPAGE]
    allocate(1 << 20)
    assert len(advice) == 1


@pytest.mark.parametrize("lengths", [[1], [0], [10, 0, 70], [100_000, 3, 5_000_000, 64, 1]])
def test_pieces_begin_where_arrays_like_it(lengths: list[int]) -> None:
    pieces = allocate_pieces(lengths)
    assert [piece.nbytes for piece in pieces] == lengths
    for number, piece in enumerate(pieces):
        piece[:] = bytes([number + 1]) * piece.nbytes
    for number, piece in enumerate(pieces):
        assert set(piece.tobytes()) <= {number + 1}
    filled = [address(piece) for piece in pieces if piece.nbytes]
    if sum(lengths) >= 4 << 20:
        assert all(at % 64 == 0 for at in filled)


def test_no_memory_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="no memory for"):
        allocate(1 << 60)
