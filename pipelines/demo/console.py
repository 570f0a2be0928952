"""What the demo prints: a bar for how far it is, a line for each event."""

import time

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


class Console:
    """Lines with the seconds since the beginning; below them a bar, where there is a terminal for one."""

    def __init__(self, *, steps: int) -> None:
        self._began = time.monotonic()
        self._rich = RichConsole(highlight=False, soft_wrap=True)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=self._rich, transient=True)
        self._task = self._progress.add_task("starting", total=steps)
        self._progress.start()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def act(self, title: str) -> None:
        """The next act begins."""
        self._progress.update(self._task, description=title[:60])
        self._rich.print(Text(f"\n{title}", style="bold"))

    def event(self, line: str) -> None:
        """Something happened."""
        self._rich.print(Text(f"{self.seconds:6.1f} s  {line}"))

    def wait(self) -> None:
        """Nothing happened; the bar shows that it is not stuck."""
        self._progress.refresh()

    def done(self) -> None:
        """One act is over."""
        self._progress.advance(self._task)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()
