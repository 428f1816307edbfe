"""Runs a job on this machine, in a process of its own that outlives the one that started it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..contracts import Compute


class Local(Compute):
    """This machine: a detached process that writes its output to log.txt in the run folder."""

    def start(self, job_file: Path, run_folder: Path) -> int:
        """Starts `potstill run` in a session of its own, so that closing the terminal or notebook does not end it."""
        run_folder.mkdir(parents=True, exist_ok=True)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        streams = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(run_folder / "log.txt"), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        command = [sys.executable, "-m", "potstill", "run", str(job_file)]
        return os.posix_spawn(sys.executable, command, os.environ, file_actions=streams, setsid=True)
