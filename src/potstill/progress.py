"""A progress bar on a terminal, silence elsewhere; `state.json` learns of the progress either way."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from .runfolder import RunFolder

SECONDS_BETWEEN_STATES = 1.0


class Progress:
    """`with Progress(folder, "generate", 500) as bar: bar.advance(1, note="4.2 rows/s")`; without a folder it is silent."""

    def __init__(self, folder: RunFolder | None, label: str, total: int) -> None:
        self.folder = folder
        self.label = label
        self.total = total
        self.done = 0
        self._written = 0.0
        console = Console(stderr=True)
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal or folder is None,
        )
        self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
        self._write()

    def advance(self, count: int = 1, *, note: str = "") -> None:
        self.done += count
        self._bar.update(self._task, advance=count, note=note)
        if time.monotonic() - self._written >= SECONDS_BETWEEN_STATES:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        if self.folder is not None:
            self.folder.update_state(progress={"label": self.label, "done": self.done, "total": self.total})
