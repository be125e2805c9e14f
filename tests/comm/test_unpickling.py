"""Unpickling while other threads import."""

from __future__ import annotations

import collections
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.comm import serialize, unpickling
from tests.client.conftest import until

GATE = threading.Event()


def test_values_come_back() -> None:
    values = [1, "x", {"a": (1, 2)}, collections.OrderedDict(a=1), len, [b"\x93" * 5], serialize.dump_value]
    for value in values:
        data = pickle.dumps(value, 5)
        for form in (data, bytearray(data), memoryview(data)):
            assert unpickling.loads(form) == value
    buffers: list[Any] = []
    data = pickle.dumps(pickle.PickleBuffer(bytearray(b"abc")), 5, buffer_callback=buffers.append)
    assert bytes(unpickling.loads(data, buffers=buffers)) == b"abc"


def test_what_is_not_there_is_said() -> None:
    data = pickle.dumps(collections.OrderedDict(), 5).replace(b"\x8c\x0bcollections", b"\x8c\x0bnot.there.x")
    with pytest.raises(serialize.SerializationError, match="No module named 'not'"):
        serialize.load_value(data)


@pytest.mark.parametrize("how", ["by reference", "as a module that a function names"])
def test_a_package_that_another_thread_imports_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    name = "slowpackage" + str(len(how))
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text(
        f"from {__name__} import GATE\nGATE.wait(10)\nfrom {name}.inner import thing\nready = True\n"
    )
    (package / "inner.py").write_text(f"import {name}\nfrom {name}.more import number\nthing = number\n")
    (package / "more.py").write_text("number = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = (
        b"\x80\x05" + _text(f"{name}.inner") + _text("thing") + b"\x93."
        if how == "by reference"
        else b"\x80\x05"
        + _text("cloudpickle.cloudpickle")
        + _text("subimport")
        + b"\x93"
        + _text(f"{name}.inner")
        + b"\x85R."
    )
    seen: list[Any] = []
    GATE.clear()
    threads = [
        threading.Thread(target=lambda: seen.append(__import__(name).ready), daemon=True),
        threading.Thread(target=lambda: seen.append(unpickling.loads(data)), daemon=True),
    ]
    threads[0].start()
    until(lambda: name in sys.modules, "the beginning of the import")
    threads[1].start()
    until(lambda: _is_importing(threads[1]), "the second thread's import")
    GATE.set()
    for thread in threads:
        thread.join(10)
    assert True in seen
    other = next(one for one in seen if one is not True)
    assert getattr(other, "thing", other) == 7


def _text(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def _is_importing(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "acquire" and "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False
