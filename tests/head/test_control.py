"""What a head answers."""

from __future__ import annotations

from hpclaunch.head.control import where_they_stand


def row(number: int, state: str, reason: str = "") -> dict[str, str]:
    return {"id": f"7.{number}" if number else "", "state": state, "reason": reason}


def test_jobs_that_stand_alike_are_told_in_one_line() -> None:
    jobs = [row(n, "ended", "not wanted any more") for n in range(1, 40)]
    jobs += [row(40, "up"), row(41, "queued", "no slot is free"), row(42, "queued", "no slot is free")]
    jobs += [row(0, "submitting")]
    assert where_they_stand(jobs).splitlines() == [
        "  job 7.40: up",
        "  2 jobs (7.41, 7.42): queued  no slot is free",
        "  job (no id yet): submitting",
        "  39 jobs (7.1, 7.2, 7.3, ...): ended  not wanted any more",
    ]


def test_a_long_list_says_how_long_it_is() -> None:
    text = where_they_stand([row(n, "ended", f"exit code {n}") for n in range(1, 31)])
    assert text.splitlines()[-1] == "  and 10 more such lines"
    assert len(text.splitlines()) == 21
    assert where_they_stand([]) == ""
