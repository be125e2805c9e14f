"""A progress bar over futures, in the terminal."""

from __future__ import annotations

from typing import Any

from hpclaunch.client.futures.collect import futures_and_answers
from hpclaunch.client.futures.waiting import as_completed


def progress(*futures: Any, title: str = "tasks", transient: bool = False) -> None:
    """Show a bar until all of ``futures`` have ended; failed tasks are counted in its text.

    :param futures: futures, lists of them, or collections that were persisted.
    :raises JobsFailedError: the cluster cannot start workers.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    some = futures_and_answers(*futures)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    failed = 0
    with Progress(*columns, transient=transient) as bar:
        shown = bar.add_task(title, total=len(some))
        for future in as_completed(some):
            failed += future._has_failed
            text = f"{title} ([red]{failed} failed[/red])" if failed else title
            bar.update(shown, advance=1, description=text)
