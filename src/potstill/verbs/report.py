"""`potstill report RUN [--open]`: the verdict and where the report lies."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from ..errors import DataError
from ..runs import find_run
from ..terminal import say_outcome


def report(place: Path, open_it: bool, as_json: bool) -> None:
    """Prints the verdict and the report's path; opens it in the browser when asked."""
    folder = find_run(place).path
    page = (folder / "report.html").resolve()
    if not page.is_file():
        raise DataError(
            f"run {folder.name} has no report yet; `potstill run` continues it, `potstill show {place}` says where it is"
        )
    say_outcome(folder, as_json)
    if open_it and not webbrowser.open(page.as_uri()):
        raise DataError(f"no browser could be started; open {page} yourself")
