"""No telemetry: the quickstart's whole path, child processes included, with every connection off this machine refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Python imports a module of this name at start, in child processes too.
SITECUSTOMIZE = """
import os, socket

def refuse(*target):
    with open(os.environ["ATTEMPTS"], "a") as log:
        log.write(repr(target) + chr(10))
    raise OSError("refused: the test allows this machine only")

def is_here(host):
    return host in (None, "", "localhost", "::1", b"localhost") or str(host).startswith("127.")

class Socket(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX and not is_here(address[0]):
            refuse("connect", address)
        return super().connect(address)

    def connect_ex(self, address):
        if self.family != socket.AF_UNIX and not is_here(address[0]):
            refuse("connect_ex", address)
        return super().connect_ex(address)

    def sendto(self, data, *rest):
        if self.family != socket.AF_UNIX and not is_here(rest[-1][0]):
            refuse("sendto", rest[-1])
        return super().sendto(data, *rest)

look_up = socket.getaddrinfo

def getaddrinfo(host, *rest, **options):
    if not is_here(host):
        refuse("getaddrinfo", host)
    return look_up(host, *rest, **options)

socket.socket, socket.getaddrinfo = Socket, getaddrinfo
"""


def child(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command whose Python processes can reach this machine only; what they tried stands in `attempts`."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_", "DO_NOT_TRACK"))}
    environment = {**kept, "PYTHONPATH": str(folder), "ATTEMPTS": str(folder / "attempts"), "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_refusal_refuses(tmp_path: Path) -> None:
    code = "import urllib.request; urllib.request.urlopen('http://example.invalid')"
    assert child(tmp_path, sys.executable, "-c", code).returncode == 1
    assert "example.invalid" in (tmp_path / "attempts").read_text()


@pytest.mark.timeout(300)
def test_the_quickstart_reaches_for_nothing_outside(tmp_path: Path) -> None:
    small = [
        "train.epochs=1",
        "data.max_test_rows=8",
        "data.max_validation_rows=4",
        "evaluate.latency_rows=2",
        "train.validations=1",
    ]
    options = [word for setting in small for word in ("--set", setting)]
    command = [sys.executable, "-m", "potstill", "quickstart", "--rows", "20", "--folder", "out", "--json", *options]
    done = child(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "attempts").exists(), (tmp_path / "attempts").read_text()
    found = json.loads(done.stdout)
    assert found["verdict"]
    report = Path(found["report"])
    assert report.is_relative_to(tmp_path)
    systems = json.loads(report.with_name("report.json").read_text())["systems"]
    assert {"teacher", "baseline", "control", "student"} <= set(systems)
