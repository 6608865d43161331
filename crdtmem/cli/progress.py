"""Progress of long work, on standard error, and only where a person looks on."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress

__all__ = ["Watching"]


class Watching:
    """A progress bar for ``with``: shown on a terminal, silent where ``quiet`` or redirected."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._bar = Progress(console=console, disable=quiet or not console.is_terminal)
        self._task = self._bar.add_task(title, total=None)

    def update(self, done: int, total: int | None) -> None:
        """Show how far it has come; ``total`` is ``None`` where it is not known."""
        self._bar.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
