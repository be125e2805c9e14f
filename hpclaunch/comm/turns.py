"""What a connection hands on at once, so that one peer's words never keep the loop from the others. Pure.

A frame may hold very many messages, and a message in columns very many rows. Both are cut here into pieces whose
work is a small part of a turn of the event loop. The order stays, and so does the meaning: a message in columns
says the same as several of its kind with a part of the rows each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpclaunch.comm.framing import IN_COLUMNS, Frame, cut_columns
from hpclaunch.comm.messages import Message

#: Messages, and rows of a message in columns, that are handed on at once.
MOST_MESSAGES, MOST_ROWS = 256, 10_000


def is_long(frames: Sequence[Frame]) -> bool:
    """Say whether frames must be cut."""
    for messages, _ in frames:
        if len(messages) > MOST_MESSAGES:
            return True
        for message in messages:
            if type(message) in IN_COLUMNS and len(message.keys) > MOST_ROWS:  # type: ignore[union-attr]
                return True
    return False


def pieces(frame: Frame) -> Iterator[Frame]:
    """Cut a frame. Each piece has the frame's raw buffers: a message with buffers is alone in its frame."""
    some: list[Message] = []
    rows = 0
    for message in frame.messages:
        for part in _parts(message):
            some.append(part)
            rows += len(part.keys) if type(part) in IN_COLUMNS else 1  # type: ignore[union-attr]
            if len(some) >= MOST_MESSAGES or rows >= MOST_ROWS:
                yield Frame(some, frame.buffers)
                some, rows = [], 0
    if some:
        yield Frame(some, frame.buffers)


def _parts(message: Message) -> Iterator[Message]:
    count = len(message.keys) if type(message) in IN_COLUMNS else 0  # type: ignore[union-attr]
    if count <= MOST_ROWS:
        yield message
        return
    for start in range(0, count, MOST_ROWS):
        yield cut_columns(message, slice(start, start + MOST_ROWS))
