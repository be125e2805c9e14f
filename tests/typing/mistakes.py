"""What type checkers must refuse: each line that ends in "# error", and no other."""

from __future__ import annotations

from hpclaunch import Client, Clinet, delayed  # error


def inc(x: int) -> int:
    return x + 1


def mistakes(client: Client) -> None:
    client.submitt(inc, 1)  # error
    client.submit(inc, 1, retries="twice")  # error
    client.submit(5, 1)  # error
    client.map(inc, 5)  # error
    future = client.submit(inc, 1)
    future.reslt()  # error
    text: str = future.result()  # error
    client.gather([future])[0].upper()  # error
    lazy: str = delayed(inc)(1).compute()  # error
    client.wait_for_workers()  # error
    client.name = "other"  # error
    print(text, lazy, Clinet)
