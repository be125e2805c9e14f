"""How fast a large result comes from one worker to another of one machine, beside a raw stream of its size."""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rounds import Benchmark, Contestant, Measured, Metric
from benchmarks.work import dask_client, make_block, measure_block, our_client, worker_name

SIZE = 100_000_000
TIMES = 7


def _rates(make: Callable[[], Any], move: Callable[[Any], int]) -> Measured:
    """Make and move blocks; only the moves count. Megabytes a second."""
    rates = []
    for _ in range(TIMES):
        block = make()
        start = time.perf_counter()
        if move(block) != SIZE:
            raise ValueError("something is missing")
        rates.append(SIZE / 1e6 / (time.perf_counter() - start))
    return {"rate": statistics.median(rates[1:])}  # the first one connects


def ours() -> Measured:
    """Measure hpclaunch: a task on one worker takes what a task on the other has made."""
    return _ours(is_far=False)


def ours_far() -> Measured:
    """Measure the same between workers that take each other for another host's."""
    return _ours(is_far=True)


def be_far() -> None:
    """Have this process believe that it shares its host with no process."""
    from hpclaunch.comm import fetch

    fetch.node_id = lambda: ""  # type: ignore[assignment]


def _ours(*, is_far: bool) -> Measured:
    from hpclaunch import wait

    with our_client(2) as client:
        if is_far:
            client.run(be_far)
        names: set[str] = set()
        while len(names) < 2:
            names.update(client.gather(client.map(worker_name, range(100))))
        one, other = sorted(names)

        def make() -> Any:
            block = client.submit(make_block, SIZE, workers=[one])
            wait([block])
            return block

        return _rates(make, lambda block: int(client.submit(measure_block, block, workers=[other]).result()))


def dask() -> Measured:
    """Measure dask.distributed in the same way."""
    from distributed import wait

    with dask_client(2) as client:
        one, other = sorted(client.scheduler_info()["workers"])

        def make() -> Any:
            block = client.submit(make_block, SIZE, workers=[one], pure=False)
            wait([block])
            return block

        return _rates(
            make, lambda block: int(client.submit(measure_block, block, workers=[other], pure=False).result())
        )


def raw_tls() -> Measured:
    """Measure a plain TLS 1.3 stream between two processes: blocking sockets, large writes, one buffer to fill."""
    return _stream(is_secure=True)


def raw_tcp() -> Measured:
    """Measure the same without TLS."""
    return _stream(is_secure=False)


def _stream(*, is_secure: bool) -> Measured:
    from hpclaunch.comm import tls

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        tls.write_credentials(directory, "benchmark")
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            sender = multiprocessing.get_context("fork").Process(target=_send, args=(server, directory, is_secure))
            sender.start()
            raw = socket.create_connection(("127.0.0.1", port))
            stream: Any = raw
            if is_secure:
                stream = tls.client_context(directory, "worker").wrap_socket(raw)
            measured = _rates(lambda: stream, _receive)
            stream.close()
            sender.join()
    return measured


def _send(server: socket.socket, directory: Path, is_secure: bool) -> None:
    from hpclaunch.comm import tls

    connection, _ = server.accept()
    if is_secure:
        connection = tls.server_context(directory, "worker").wrap_socket(connection, server_side=True)
    data = memoryview(bytearray(b"x") * SIZE)
    try:
        while connection.recv(1):
            for at in range(0, SIZE, 1 << 20):
                connection.sendall(data[at : at + (1 << 20)])
    except (OSError, ssl.SSLError):  # the other side has enough
        return


def _receive(stream: Any) -> int:
    stream.sendall(b"?")
    buffer = bytearray(SIZE)
    view, have = memoryview(buffer), 0
    while have < SIZE:
        have += stream.recv_into(view[have:])
    return have


BENCHMARK = Benchmark(
    name="transfer",
    title="100 MB from one worker to another",
    metrics=[Metric("rate", "MB/s", is_more_better=True, digits=0)],
    contestants=[
        Contestant("hpclaunch, between hosts", ours_far, "a task takes another worker's result; TLS"),
        Contestant("hpclaunch, on one host", ours, "the same; it is shared instead of sent"),
        Contestant(
            "raw TLS stream", raw_tls, "two processes, blocking sockets, the same certificates", {"rate": "≥ 0.7"}
        ),
        Contestant("raw TCP stream", raw_tcp, "the same without TLS"),
        Contestant("dask.distributed", dask, "the same tasks; plain TCP, its default"),
    ],
)
