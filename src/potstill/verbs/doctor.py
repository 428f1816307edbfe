"""`potstill doctor`: what this machine has, and which OMP_WAIT_POLICY suits it, measured."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from ..starter import STUDENT, TEACHER, models_dir
from ..terminal import hint, say, say_json, say_mark

NEEDED = ("torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "pydantic", "typer", "pyarrow")
OPTIONAL = {
    "onnxruntime": "onnx", "gguf": "gguf", "bitsandbytes": "qlora", "ray": "ray", "fastapi": "serve", "math-verify": "math",
}  # fmt: skip
FEATURES = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
TRIAL_TIMEOUT_S = 180
GIB = 2**30


def doctor(as_json: bool) -> int:
    """Prints every finding and returns 2 when something needed is missing."""
    found = _machine()
    hint("measuring, some seconds for each setting ...")
    trials = {"default": _trial(None), "PASSIVE": _trial("PASSIVE")}
    found["omp_wait_policy"] = {**trials, "advice": _advice(trials["default"], trials["PASSIVE"])}
    found["accelerator"] = trials["PASSIVE"].get("accelerator")
    if as_json:
        say_json(found)
    else:
        _print(found)
    return 2 if None in found["packages"].values() else 0


def _machine() -> dict[str, Any]:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "features": _features(),
        "memory_gib": round(memory.total / GIB, 1),
        "memory_free_gib": round(memory.available / GIB, 1),
        "disk_free_gib": round(disk.free / GIB, 1),
        "packages": {name: _version(name) for name in NEEDED},
        "optional": {name: _version(name) for name in OPTIONAL},
        "starter_pack": {name: (models_dir() / name / "config.json").is_file() for name in (TEACHER, STUDENT)},
    }


def _print(found: dict[str, Any]) -> None:
    say_mark("ok", "python", f"{found['python']} on {found['system']}")
    say_mark(
        "ok", "processor", f"{found['cores']} cores, load {found['load']}, {', '.join(found['features']) or 'no known features'}"
    )
    say_mark("ok", "memory", f"{found['memory_free_gib']} of {found['memory_gib']} GiB free")
    say_mark("ok" if found["disk_free_gib"] > 2 else "warning", "disk", f"{found['disk_free_gib']} GiB free here")
    say_mark("ok", "accelerator", found["accelerator"] or "none; the CPU is used")
    for name, version in found["packages"].items():
        say_mark("ok" if version else "problem", name, version or f"is missing; pip install {name}")
    for name, version in found["optional"].items():
        say_mark("ok", name, version or f"not installed (optional: pip install 'potstill[{OPTIONAL[name]}]')")
    for name, there in found["starter_pack"].items():
        say_mark("ok" if there else "warning", name, "present" if there else "not in this installation; quickstart needs it")
    policies = found["omp_wait_policy"]
    for name in ("default", "PASSIVE"):
        trial = policies[name]
        timed = f"{trial['tokens_per_s']} tokens/s, {trial['training_step_s']} s a training step"
        say_mark("warning" if "error" in trial else "ok", f"OMP_WAIT_POLICY {name}", trial.get("error") or timed)
    say(policies["advice"])


def _advice(default: dict[str, Any], passive: dict[str, Any]) -> str:
    """Which setting to use here; the score is the geometric mean of both ratios."""
    if "error" in default or "error" in passive:
        return "the two settings could not be compared; potstill uses PASSIVE"
    generation = passive["tokens_per_s"] / default["tokens_per_s"]
    training = default["training_step_s"] / passive["training_step_s"]
    measured = f"PASSIVE is {generation:.2f} times as fast at generation and {training:.2f} times at training as the default"
    if (generation * training) ** 0.5 >= 0.95:
        return f"{measured}: keep PASSIVE, which potstill sets when no OMP_* variable is set"
    return f"{measured}: this machine is quiet now; export OMP_WAIT_POLICY=ACTIVE for potstill if it stays so"


def _trial(policy: str | None) -> dict[str, Any]:
    """One child process with the wait policy given, or with none."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-m", f"{__name__.partition('.')[0]}.speed_trial"]
    try:
        child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TRIAL_TIMEOUT_S, check=True)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {TRIAL_TIMEOUT_S} s"}
    except subprocess.CalledProcessError as error:
        return {"error": (error.stderr.strip().splitlines() or ["it failed"])[-1]}
    result: dict[str, Any] = json.loads(child.stdout.strip().splitlines()[-1])
    return result


def _features() -> list[str]:
    """Processor flags that matter here; Linux tells them in a file, other systems do not."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    return [feature for feature in FEATURES if feature in flags]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
