"""Seeds of random walks: how many there are, and which of them ``make check`` takes too."""

from __future__ import annotations

import os
from typing import Any

import pytest


def seeds(number: int, *, quick: int) -> list[Any]:
    """Return the parameters of a test; those after the first ``quick`` are slow.

    :param number: how many if ``HPCLAUNCH_TEST_WALKS`` does not say it.
    """
    number = int(os.environ.get("HPCLAUNCH_TEST_WALKS", number))
    return [pytest.param(seed, marks=[pytest.mark.slow] if seed >= quick else []) for seed in range(number)]
