"""Clocks of two hosts that disagree: how far, in words that a person can act on."""

from __future__ import annotations

#: Clocks that differ by more than this are worth a word, in seconds.
NOTED = 60.0


def apart(seconds: float) -> str:
    """Return a difference as text: ``90 s``, ``3.0 hours``, ``2.1 days``."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def note_of(host: str, ahead: float) -> str:
    """Return what to say of a node whose clock is so many seconds ahead of the head's; empty if they agree."""
    if abs(ahead) <= NOTED:
        return ""
    side = "ahead of" if ahead > 0 else "behind"
    return (
        f"the clock of {host} is {apart(abs(ahead))} {side} the head's: times in logs and files of that node are "
        "wrong by as much. Tell the people who run the cluster"
    )
