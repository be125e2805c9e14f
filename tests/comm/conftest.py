"""What the comm tests share: credentials of two clusters, and an event loop per test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hpclaunch.comm import tls


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of cluster "ours", with its keys."""
    return _make(tmp_path_factory, "ours")


@pytest.fixture(scope="session")
def other_credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of another cluster of the same name."""
    return _make(tmp_path_factory, "ours")


def _make(factory: pytest.TempPathFactory, cluster_id: str) -> Path:
    directory = factory.mktemp("keys")
    directory.chmod(0o700)
    tls.write_credentials(directory, cluster_id)
    return directory


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine on a loop of its own; whatever its callbacks raise fails the test."""

    def start(work: Coroutine[Any, Any, Any]) -> Any:
        raised: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: raised.append(context))
            result = runner.run(asyncio.wait_for(work, 20))
        assert not [c for c in raised if "handshake" not in str(c.get("message", "")).lower()], raised
        return result

    return start
