"""Trainings in processes of their own: two at once that learn together, and one that is killed on its way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SEES_TESTS = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
QUIET = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}


def in_two_processes(folder: Path, code: str, *arguments: Path) -> None:
    """Runs the code, which sees the tests' modules and `arguments` in sys.argv[1:], in two processes joined by gloo."""
    script = folder / "go.py"
    joined = "from accelerate import PartialState; assert PartialState(cpu=True).num_processes == 2\n"
    script.write_text(f"{SEES_TESTS}{joined}{code}\n", encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    own = {**QUIET, "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env={**os.environ, **own}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def killed_and_resumed(folder: Path, code: str, events: Path, kills: Sequence[int], *arguments: Path) -> None:
    """Runs the code, kills it with -9 once `events` tells of so many steps, for each number, and lets it end at last."""
    script = folder / "go.py"
    script.write_text(f"{SEES_TESTS}{code}\n", encoding="utf-8")
    command = [sys.executable, str(script), *map(str, arguments)]
    for kill_after in kills:
        child = subprocess.Popen(command, env={**os.environ, **QUIET})
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and child.poll() is None:
            if events.is_file() and events.read_text().count('"event": "step"') >= kill_after:
                break
            time.sleep(0.01)
        assert child.poll() is None, "it finished before it could be killed"
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert subprocess.run(command, env={**os.environ, **QUIET}, check=False).returncode == 0
