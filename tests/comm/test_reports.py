"""Our errors as plain data, and back."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from hpclaunch import errors
from hpclaunch.comm.messages import ErrorReport
from hpclaunch.comm.reports import to_error, to_report

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.HPCLaunchError)]


def through(error: BaseException) -> errors.HPCLaunchError:
    data = msgspec.msgpack.encode(to_report(error))
    return to_error(msgspec.msgpack.decode(data, type=ErrorReport))


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_comes_back_as_its_class_with_its_text(cls: type[errors.HPCLaunchError]) -> None:
    error = (
        cls([errors.ConfigError("a"), errors.ConfigError("b")]) if cls is errors.ConfigErrors else cls("why, ☃")
    )  # type: ignore[call-arg]
    back = through(error)
    assert type(back) is cls
    assert str(back) == str(error)


def test_attributes_come_back() -> None:
    error = errors.SubmitError(
        "submitting", argv=["qsub", "-t", "1-8"], exit_code=7, output="no\nqueue", hint="Do."
    )
    back = through(error)
    assert isinstance(back, errors.SubmitError)
    assert vars(back) == vars(error)
    assert back.argv == ("qsub", "-t", "1-8")
    config = errors.ConfigError("bad", origin="jobqueue.yaml:7", key="jobqueue.sge.cores")
    assert vars(through(config)) == vars(config)


def test_what_is_not_plain_stays_behind() -> None:
    error = errors.HeadError("why")
    error.process = object()  # type: ignore[attr-defined]
    error.lines = ["a", object()]  # type: ignore[attr-defined]
    error.exit_code = 3  # type: ignore[attr-defined]
    assert vars(through(error)) == {"exit_code": 3}


def test_an_error_that_is_not_ours_becomes_a_bug_that_tells_its_class() -> None:
    back = through(KeyError("nodes"))
    assert type(back) is errors.BugError
    assert str(back) == "KeyError: 'nodes'"


@pytest.mark.parametrize("kind", ["NoSuchError", "Sequence", "concurrent", "annotations", "__builtins__", ""])
def test_a_class_that_is_not_an_error_of_ours_is_never_made(kind: str) -> None:
    back = to_error(ErrorReport(kind, "text"))
    assert type(back) is errors.HPCLaunchError
    assert str(back) == "text"
