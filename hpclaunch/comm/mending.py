"""Messages that can't be encoded, found when a batch of them is sent: none of the others may be lost with them.

What users give is checked in their calls (:mod:`hpclaunch.comm.texts`), so this is the second line of defence.
The batch is encoded message by message; each that fails goes to its sender (:data:`OnUnsendable`), which may have
its task fail, or send something else. By default it goes out with its texts escaped and its numbers cut: a failure
that is told in other words is better than a task that never ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from hpclaunch.comm.buffers import Buffer
from hpclaunch.comm.framing import encode
from hpclaunch.comm.messages import Message
from hpclaunch.comm.texts import sendable
from hpclaunch.errors import FrameError

log = logging.getLogger("hpclaunch.comm")

#: What the encoder raises for a value that it can't encode. (UnicodeEncodeError is a ValueError.)
UNENCODABLE = (ValueError, TypeError, OverflowError, RecursionError)

#: Returns what is to be sent instead of a message that can't be encoded, and why; None: nothing.
OnUnsendable = Callable[[Message, Exception], Message | None]


def mend(message: Message, error: Exception) -> Message | None:
    """Return a message that says the same, as far as that can be encoded."""
    log.error("a %s can't be encoded, and is sent with its texts escaped: %s", type(message).__name__, error)
    mended: Message = sendable(message)
    return mended


def encode_all(
    messages: Sequence[Message], buffers: Sequence[Buffer], on_unsendable: OnUnsendable = mend
) -> list[Buffer]:
    """Return frames of all messages, in their order, with what is sent instead of those that can't be encoded.

    :raises FrameError: as :func:`hpclaunch.comm.framing.encode`.
    """
    try:
        return encode(messages, buffers)
    except UNENCODABLE:
        whole = list(_replaced(messages, on_unsendable))
    return encode(whole, buffers) if whole or buffers else []


def _replaced(messages: Sequence[Message], on_unsendable: OnUnsendable) -> Iterator[Message]:
    for message in messages:
        replacement: Message | None = message
        try:
            encode([message])
        except UNENCODABLE as error:
            replacement = on_unsendable(message, error)
            if replacement is not None and not _can_be_encoded(replacement):
                log.critical("a %s can't be sent: %s", type(message).__name__, error)
                replacement = None
        except FrameError:  # a large one, which is cut when all are sent
            pass
        if replacement is not None:
            yield replacement


def _can_be_encoded(message: Message) -> bool:
    try:
        encode([message])
    except UNENCODABLE:
        return False
    except FrameError:
        return True
    return True
