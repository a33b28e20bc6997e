"""The terminal, through rich: text is printed as it is, and progress bars appear only where somebody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["plain_console", "progress_bar"]


def plain_console(**options: Any) -> Console:
    """A rich console that takes no text for markup: paths and reasons such as `[bold]` or `:smile:` are printed as they
    are, in tables too. Colour comes from `rich.text.Text` and from styles."""
    from rich.console import Console

    return Console(markup=False, emoji=False, **options)


@contextmanager
def progress_bar(total: int, title: str, show: bool = True) -> Iterator[Callable[[str], None]]:
    """A bar of `total` ticks on standard error; the block gets a function that ticks once and shows a note."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = plain_console(stderr=True)
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    ]
    with Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal)) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda note: bar.update(task, advance=1, note=note)
