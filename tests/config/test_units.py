"""Sizes and times: tables, and round trips by Hypothesis."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st

from hpclaunch.config.units import format_bytes, format_duration, mebibytes_up, parse_bytes, parse_duration


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1 GB", 10**9),
        ("24GB", 24 * 10**9),
        ("24 G", 24 * 10**9),
        ("24GiB", 24 * 2**30),
        ("500M", 500 * 10**6),
        ("1.5 kB", 1500),
        ("0.5GiB", 2**29),
        ("1e9", 10**9),
        ("123", 123),
        ("7 B", 7),
        (4096, 4096),
        (1.5e9, 1_500_000_000),
        ("2 tib", 2 * 2**40),
    ],
)
def test_sizes(text: str | float, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", "GB", "24 GX", "1 iB", "-1 GB", "1,5 GB", "1.0001 kB1", True, -5, "0.3 B"),
        *(float("inf"), float("nan"), "1e999999999 GB", "0x10", "²"),
    ],
)
def test_what_is_no_size(text: str | float) -> None:
    with pytest.raises(ValueError, match=r"size|negative|whole number"):
        parse_bytes(text)


@given(st.integers(0, 10**18))
def test_sizes_survive_being_written(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == size


@given(st.integers(0, 10**15))
def test_mebibytes_are_rounded_up(size: int) -> None:
    assert (mebibytes_up(size) - 1) << 20 < size <= mebibytes_up(size) << 20


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("01:30:00", 5400),
        ("1-12:00:00", 129600),
        ("90:00", 5400),
        ("2d", 172800),
        ("90m", 5400),
        ("1h30m", 5400),
        ("1 day 2 hours", 93600),
        ("55 min", 3300),
        (3600, 3600),
        ("3600", 3600),
        ("0.5", 0.5),
        ("1-12:00", 129600),
        ("100:00:00", 360000),
        ("00:00:01.5", 1.5),
        ("1.1h", 3960),  # in floats a little more
        ("0.1m", 6),
        ("1-12", 129600),  # days and hours, as Slurm has it
        ("0-00:30:00", 1800),
        (" 2 D ", 172800),
        ("00:00:00", 0),
    ],
)
def test_times(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "25:61:00", "10:99", "1h x", "-5", -1, True, "1:2:3:4", float("nan"), float("inf")),
        *("1-12:75", "1-24", "1-24:00:00", 10**400, "9" * 400, "1e3", "1-", "-1-12", "h"),
    ],
)
def test_what_is_no_time(text: str | float) -> None:
    with pytest.raises(ValueError, match=r"time|minutes|seconds|hours"):
        parse_duration(text)


@given(st.integers(0, 10**8))
def test_times_survive_being_written(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 10**6), st.sampled_from([("h", 3600), ("m", 60), ("d", 86400)]))
def test_tenths_are_exact(tenths: int, unit: tuple[str, int]) -> None:
    assert parse_duration(f"{tenths // 10}.{tenths % 10}{unit[0]}") == tenths * unit[1] / 10


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    for parse in (parse_bytes, parse_duration):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0
