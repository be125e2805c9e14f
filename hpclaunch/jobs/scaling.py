"""How many jobs to submit or retire, so that as many are alive as were asked for. Pure: a snapshot in, a small
answer out.

Rules:

* Only live jobs count: submitting, queued, starting, up. A draining job is already on its way out; it cannot be
  called back, so a grown wish is met by a new submission.
* An expiring job works on, but its replacement is wanted: it counts among its like only, of which there may be as
  many as there are wished jobs.
* What is retired first has cost least: the youngest queued, then the youngest that have started but have no
  worker, then running jobs in the order that the engine gives (idle ones first), then the youngest of the rest.
* A job that is being submitted has no name yet and cannot be retired; the surplus is settled when it has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hpclaunch.jobs.job import Job, State


class Decision(NamedTuple):
    """What to do now. ``wait_until``: when to ask again about jobs that back-off holds back."""

    submit: int = 0
    cancel: tuple[str, ...] = ()  # no worker of these is up
    retire: tuple[str, ...] = ()  # workers of these finish their tasks first
    wait_until: float | None = None
    reason: str = ""


def decide(
    wish: int,
    jobs: Iterable[Job],
    now: float,
    *,
    not_before: float = 0.0,
    is_stopped: bool = False,
    idle: Sequence[str] = (),
) -> Decision:
    """Compare the wish with the jobs that are alive.

    :param not_before: unix time before which back-off forbids to submit.
    :param is_stopped: nothing is submitted at all (too many early deaths).
    :param idle: ids of jobs with workers, from cheapest to lose.
    """
    everything = [job for job in jobs if job.is_live]
    live = [job for job in everything if not job.is_expiring]
    expiring = [job for job in everything if job.is_expiring]
    surplus = len(live) - wish
    if surplus > 0 or len(expiring) > wish:
        reason = f"{len(everything)} jobs alive, {wish} wanted"
        first = _let_go(live, max(0, surplus), idle, reason)
        second = _let_go(expiring, max(0, len(expiring) - wish), idle, reason)
        return first._replace(cancel=first.cancel + second.cancel, retire=first.retire + second.retire)
    if surplus == 0 or is_stopped:
        return Decision()
    if now < not_before:
        return Decision(wait_until=not_before, reason=f"{-surplus} jobs missing, back-off holds")
    return Decision(submit=-surplus, reason=f"{len(live)} jobs alive, {wish} wanted")


def _let_go(live: Sequence[Job], count: int, idle: Sequence[str], reason: str) -> Decision:
    rank = {job_id: place for place, job_id in enumerate(idle)}
    order = {State.QUEUED: 0, State.STARTING: 1, State.UP: 2}
    named = [job for job in live if job.state in order]
    named.sort(key=lambda job: (order[job.state], rank.get(job.id, len(rank)) if job.workers else -1, -job.number))
    chosen = named[:count]
    return Decision(
        cancel=tuple(job.id for job in chosen if not job.workers),
        retire=tuple(job.id for job in chosen if job.workers),
        reason=reason,
    )
