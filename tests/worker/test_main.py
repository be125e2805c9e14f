"""The command line that a job script has."""

from __future__ import annotations

import pytest

from hpclaunch.worker.__main__ import parse

NEEDED = ["--directory", "d", "--job", "1.1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("GPU=1", {"GPU": 1.0}), ("GPU=2 BIG=1e9", {"GPU": 2.0, "BIG": 1e9}), ("a=0.5, b=1", {"a": 0.5, "b": 1.0})],
)
def test_resources(text: str, expected: dict[str, float]) -> None:
    assert parse([*NEEDED, "--resources", text]).resources == expected
    assert parse(NEEDED).resources == {}


@pytest.mark.parametrize("text", ["GPU", "GPU=", "=1", "GPU=0", "GPU=-1", "GPU=nan", "GPU=many"])
def test_resources_that_cannot_be(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([*NEEDED, "--resources", text])
    assert "argument --resources: invalid" in capsys.readouterr().err
