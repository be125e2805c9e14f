"""User data there and back: functions, arguments, results and exceptions."""

from __future__ import annotations

import functools
import operator
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from hpclaunch import errors
from hpclaunch.comm import serialize, unpickling
from hpclaunch.comm.serialize import Payload, RemoteTraceback, dump_call, dump_failure, load_call, load_failure
from hpclaunch.errors import SerializationError


class FakeFuture:
    """Pickles as a client's Future does."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __reduce__(self) -> Any:
        return serialize.reduce_future(self.key)


class Box:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


def there_and_back(value: Any) -> Any:
    payload = serialize.dump_value(value)
    return serialize.load_value(*payload)


# --- values

plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(plain_data)
def test_plain_values_come_back(value: Any) -> None:
    assert there_and_back(value) == value
    assert serialize.load_value(serialize.dump_inline(value)) == value


def test_arrays_travel_out_of_band_and_come_back_writable() -> None:
    array = np.arange(100_000.0)
    payload = serialize.dump_value({"a": array, "b": [array[:10].copy()]})
    assert len(payload.pickle) < 1000
    assert payload.size > array.nbytes
    assert np.shares_memory(np.frombuffer(payload.buffers[0]), array)  # not copied on the way out
    back = serialize.load_value(payload.pickle, [bytes(b) for b in payload.buffers])  # as from a small frame
    back["a"] += 1
    np.testing.assert_array_equal(back["a"], array + 1)
    received = [bytearray(b) for b in payload.buffers]  # as from a large frame, whose memory is ours
    assert np.shares_memory(serialize.load_value(payload.pickle, received)["a"], np.frombuffer(received[0]))


def test_small_arrays_stay_in_the_pickle_and_come_back_writable() -> None:
    many = 40_000  # more than a frame has room for
    payload = serialize.dump_value([np.zeros(3) for _ in range(many)])
    assert not payload.buffers
    back = serialize.load_value(*payload)
    back[-1] += 1
    assert back[-1].sum() == 3


def test_there_are_never_more_buffers_than_a_frame_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "_MAX_BUFFERS", 10)
    arrays = [np.full(10_000, i) for i in range(15)]
    payload = serialize.dump_value(arrays)
    assert len(payload.buffers) == 10
    np.testing.assert_array_equal(serialize.load_value(*payload), arrays)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(24).reshape(2, 3, 4)[:, ::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([], dtype="f4"),
        np.array(["a", "b"], dtype=object),
        np.datetime64("2024-01-01"),
        np.zeros(3, dtype=[("x", "i4"), ("y", "f8")]),
    ],
    ids=["strided", "fortran", "empty", "objects", "scalar", "records"],
)
def test_odd_arrays_come_back(value: Any) -> None:
    back = there_and_back(value)
    np.testing.assert_array_equal(back, value)
    assert back.dtype == value.dtype


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("length", [0, 1, 30, 3000])
@pytest.mark.parametrize(
    ("make", "copies"),
    [
        (lambda n: np.arange(n * 8.0).reshape(8, n), False),
        (lambda n: np.asfortranarray(np.arange(n * 8.0).reshape(n, 8)), False),
        (lambda n: read_only(np.arange(n * 8)), False),
        (lambda n: np.zeros(n * 4, dtype=[("x", "i4"), ("y", "f8"), ("z", "u1", (3,))]), False),
        (lambda n: np.arange(n * 16.0).reshape(8, 2 * n)[:, ::2], True),
        (lambda n: np.arange(n * 8)[::-1], True),
        (lambda n: np.array([{"row": i} for i in range(n)] + [None], dtype=object), True),
        (lambda n: np.array(["x" * (i % 9) for i in range(n)]), True),
        (lambda n: np.zeros((n, 0, 3), dtype="c16"), True),
    ],
    ids=["c", "fortran", "read-only", "records", "strided", "backwards", "objects", "texts", "empty"],
)
def test_arrays_come_back_and_contiguous_ones_are_not_copied(make: Any, copies: bool, length: int) -> None:
    value = make(length)
    payload = serialize.dump_value(value)
    if length == 3000 and not copies:
        assert len(payload.buffers) == 1
        assert np.shares_memory(np.frombuffer(payload.buffers[0], "u1"), value)
    back = serialize.load_value(*payload)
    np.testing.assert_array_equal(back, value)
    assert (back.dtype, back.shape) == (value.dtype, value.shape)
    if not copies:
        assert back.flags.f_contiguous == value.flags.f_contiguous


@pytest.mark.slow  # pandas takes long to import
@pytest.mark.parametrize("length", [0, 5, 30_000])
def test_frames_come_back_and_their_numbers_are_not_copied(length: int) -> None:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "a": np.arange(length, dtype=float),
            "b": np.arange(length),
            "when": pd.date_range("2024-01-01", periods=length, freq="s", tz="UTC"),
            "kind": pd.Categorical(["x", "y", "z"] * (length // 3) + ["x"] * (length % 3)),
            "text": [f"row {i % 7}" for i in range(length)],
        },
        index=pd.Index(np.arange(length) * 2, name="even"),
    )
    payload = serialize.dump_value({"frame": frame, "series": frame["a"]})
    back = serialize.load_value(*payload)
    pd.testing.assert_frame_equal(back["frame"], frame)
    pd.testing.assert_series_equal(back["series"], frame["a"])
    if length == 30_000:
        numbers = frame["a"].to_numpy()
        assert any(np.shares_memory(np.frombuffer(one, "u1"), numbers) for one in payload.buffers)
    back["frame"]["a"] += 1  # what came is the receiver's own
    assert length == 0 or frame["a"].iloc[0] == 0


def make_adder(n: int) -> Callable[[int], int]:
    def add(x: int) -> int:
        return x + n

    return add


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (operator.neg, "neg"),
        (lambda x: -x, "<lambda>"),
        (functools.partial(operator.mul, -1), "mul"),
        (operator.methodcaller("__neg__"), "methodcaller"),
    ],
)
def test_functions_come_back_and_have_names(function: Callable[[int], int], name: str) -> None:
    sent = serialize.dump_function(function)
    assert sent.name == name
    assert serialize.load_value(sent.data)(5) == -5


def test_closures_come_back_and_differ_by_what_they_close_over() -> None:
    one, two = serialize.dump_function(make_adder(1)), serialize.dump_function(make_adder(2))
    assert one.id != two.id
    assert one.id == serialize.dump_function(make_adder(1)).id
    assert serialize.load_value(two.data)(5) == 7


def test_what_a_script_defines_travels_by_value(tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from hpclaunch.comm import serialize

        class Thing:
            def __init__(self, n): self.n = n
            def double(self): return 2 * self.n

        def use(thing): return thing.double()

        class Oops(ValueError): pass

        args, _ = serialize.dump_call((Thing(21),), None)
        function = serialize.dump_function(use).data
        for part in (function, args, serialize.dump_inline(Oops("x")), serialize.dump_inline([Thing])):
            sys.stdout.buffer.write(len(part).to_bytes(4, "big") + part)
        """)
    )
    out = subprocess.run([sys.executable, script], capture_output=True, check=True).stdout
    parts = []
    while out:
        size = int.from_bytes(out[:4], "big")
        parts.append(out[4 : 4 + size])
        out = out[4 + size :]
    function, args, error, classes = parts
    (thing,), _ = load_call(args, None)
    assert serialize.load_value(function)(thing) == 42
    assert type(serialize.load_value(error)).__name__ == "Oops"
    assert serialize.load_value(classes)[0].__name__ == "Thing"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (threading.Lock(), "a _thread.lock can't be pickled"),
        ([1, {"x": (i for i in ())}], "a builtins.list can't be pickled"),
        (sys._getframe(), "can't be pickled"),
    ],
)
def test_what_cannot_be_pickled_is_named(value: Any, words: str) -> None:
    for dump in (serialize.dump_value, serialize.dump_inline):
        with pytest.raises(SerializationError, match=words) as caught:
            dump(value)
        assert isinstance(caught.value, TypeError)  # what a user of pickle would catch


def test_a_function_that_refers_to_what_cannot_be_pickled() -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="lock"):
        serialize.dump_function(lambda: lock)


def test_a_value_whose_pickling_raises_anything() -> None:
    class Evil:
        def __reduce__(self) -> Any:
            raise RuntimeError("no way")

    with pytest.raises(SerializationError, match="no way"):
        serialize.dump_value(Evil())


def test_a_missing_module_is_named_with_what_to_do() -> None:
    data = b"cno_such_module\nthing\n."
    with pytest.raises(SerializationError, match=r"no_such_module.*must be installed, or lie beside your script"):
        serialize.load_value(data)


# --- calls and their inputs


def inputs_of(**values: Any) -> dict[str, Any]:
    """Results as a worker has them: small ones as bytes, large ones as Payloads."""
    return {k: v if isinstance(v, Payload) else serialize.dump_inline(v) for k, v in values.items()}


def test_futures_are_found_and_resolved_however_deep() -> None:
    a, b = FakeFuture("a"), FakeFuture("b")
    data, keys = dump_call(([a, {"x": (b, a)}], Box([b])), {"word": {"deep": [a]}})
    assert keys == ["a", "b"]
    args, kwargs = load_call(data, inputs_of(a=1, b="two"))
    assert args[0] == [1, {"x": ("two", 1)}]
    assert args[1].inside == ["two"]
    assert kwargs == {"word": {"deep": [1]}}


def test_futures_beside_what_only_cloudpickle_can_do() -> None:
    data, keys = dump_call((FakeFuture("a"), lambda x: x + 1), None)
    assert keys == ["a"]
    (value, function), _ = load_call(data, inputs_of(a=1))
    assert function(value) == 2


def test_a_future_is_one_object_within_a_call() -> None:
    data, _ = dump_call((FakeFuture("a"), FakeFuture("a")), None)
    (one, two), _ = load_call(data, inputs_of(a=[1]))
    assert one is two


def test_each_call_has_an_input_of_its_own_to_change() -> None:
    array = np.zeros(10_000)
    stored = serialize.dump_value(array)
    data, _ = dump_call((FakeFuture("a"),), None)
    (mine,), _ = load_call(data, {"a": stored})
    mine += 1
    (other,), _ = load_call(data, {"a": stored})
    np.testing.assert_array_equal(other, np.zeros(10_000))
    np.testing.assert_array_equal(array, np.zeros(10_000))


def test_a_graph_shares_large_inputs() -> None:
    class Reference:
        def __reduce__(self) -> Any:
            return serialize.reduce_future("a", is_shared=True)

    array = np.zeros(10_000)
    data, _ = dump_call((Reference(),), None)
    (shared,), _ = load_call(data, {"a": serialize.dump_value(array)})
    assert np.shares_memory(shared, array)


def test_a_future_pickled_for_anything_else_says_what_to_do() -> None:
    with pytest.raises(SerializationError, match="can be passed to a task"):
        pickle.dumps(FakeFuture("a"))
    with pytest.raises(SerializationError, match="the future a"):
        serialize.dump_function(functools.partial(operator.neg, FakeFuture("a")))
    with pytest.raises(SerializationError, match="outside of a task's arguments"):
        serialize.load_value(dump_call((FakeFuture("a"),), None)[0])


def test_collecting_in_one_call_does_not_leak_into_the_next() -> None:
    with pytest.raises(SerializationError):
        dump_call((FakeFuture("a"), threading.Lock()), None)
    assert dump_call((1,), None)[1] == []
    with serialize.collecting() as found:
        serialize.dump_inline(FakeFuture("x"))
    assert list(found) == ["x"]


# --- exceptions


def raise_and_dump(error: BaseException) -> Any:
    try:
        raise error
    except BaseException as caught:
        return dump_failure(caught)


class TwoArguments(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Liar(Exception):
    def __reduce__(self) -> Any:
        return str, ("not an exception",)


class Talkative(Exception):
    """Pickled with what it came of, as all are when the package tblib is told so."""

    def __reduce__(self) -> Any:
        return type(self), self.args, {"came_of": (self.__context__, self.__cause__, self.__traceback__)}


class OwnKindOfTaskError(errors.TaskError):
    pass


def test_an_exception_comes_back_with_its_remote_traceback() -> None:
    def deep() -> None:
        raise ValueError("no", 42)

    try:
        deep()
    except ValueError as error:
        back = load_failure(dump_failure(error))
    assert type(back) is ValueError
    assert back.args == ("no", 42)
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "in deep" in str(back.__cause__)


def test_what_an_exception_came_of_is_not_pickled_with_it() -> None:
    def fail() -> None:
        try:
            ContextVar("x").get()
        except LookupError:  # it holds the variable, which can't be pickled
            raise Talkative("so it goes") from None

    with pytest.raises(Talkative) as caught:
        fail()
    back = load_failure(dump_failure(caught.value))
    assert type(caught.value.__context__) is LookupError
    assert caught.value.__suppress_context__
    assert caught.value.__traceback__ is not None
    assert type(back) is Talkative
    assert back.args == ("so it goes",)


def test_a_cause_is_in_the_text() -> None:
    try:
        try:
            {}["missing"]
        except KeyError as error:
            raise RuntimeError("outer") from error
    except RuntimeError as error:
        failure = dump_failure(error)
    assert "KeyError: 'missing'" in failure.traceback
    assert "direct cause" in failure.traceback
    assert type(load_failure(failure)) is RuntimeError


@pytest.mark.parametrize("error", [TwoArguments(1, 2), Unpicklable(), Liar("x")], ids=lambda e: type(e).__name__)
def test_an_exception_that_does_not_survive_comes_as_its_text(error: Exception) -> None:
    back = load_failure(raise_and_dump(error))
    assert type(back) is errors.TaskError
    assert f"{type(error).__name__}: {error}" in str(back)
    assert "raise_and_dump" in str(back.__cause__)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_would_end_the_users_program_comes_as_its_text(error: BaseException) -> None:
    back = load_failure(raise_and_dump(error))
    assert type(back) is errors.TaskError
    assert type(error).__name__ in str(back)


def test_an_exception_as_large_as_data_comes_as_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "_MAX_EXCEPTION", 1000)
    assert raise_and_dump(ValueError(bytes(2000))).exception == b""


def test_our_own_errors_come_back_as_their_class() -> None:
    back = load_failure(raise_and_dump(errors.SerializationError("the result can't be pickled")))
    assert type(back) is errors.SerializationError
    assert str(back) == "the result can't be pickled"


def test_a_users_subclass_of_our_errors_is_the_users() -> None:
    assert type(load_failure(raise_and_dump(OwnKindOfTaskError("mine")))) is OwnKindOfTaskError


@pytest.mark.parametrize("kind", ["NoSuchError", "concurrent", "Sequence"])
def test_a_kind_that_is_no_error_of_ours_becomes_a_task_error(kind: str) -> None:
    back = load_failure(serialize.Failure(kind, "text"))
    assert type(back) is errors.TaskError
    assert str(back) == "text"


def test_an_exception_whose_class_is_not_here_comes_as_its_text() -> None:
    failure = serialize.Failure("", "Oops: it broke", "Traceback ...", b"cno_such_module\nOops\n.")
    back = load_failure(failure)
    assert type(back) is errors.TaskError
    assert "Oops: it broke" in str(back)


_meeting = threading.Barrier(2)


def _meet() -> bool:
    try:
        _meeting.wait(0.3)
    except threading.BrokenBarrierError:
        return False
    return True


class Meeting:
    def __reduce__(self) -> Any:
        return _meet, ()


def test_one_thread_unpickles_at_a_time_for_imports_of_two_get_into_each_others_way() -> None:
    data = serialize.dump_inline(Meeting())
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(serialize.load_value, [data, data])) == [False, False]


def test_what_waits_for_another_thread_while_it_is_unpickled_goes_on_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unpickling, "_TURN_SECONDS", 0.05)
    _meeting.reset()
    data = serialize.dump_inline(Meeting())
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(serialize.load_value, [data, data])) == [True, True]
