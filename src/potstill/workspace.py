"""A workspace folder: where MLClient keeps jobs and runs, and the names that its config.json gives to models.

config.json                 {"models": {"deepseek-v3": {"endpoint": "http://127.0.0.1:8000/v1"}}}
jobs/<name>/                job.yaml catalog.yaml distillation.json process.json
runs/<name>/                the run folder
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from .catalog import known_model
from .errors import JobError, did_you_mean
from .job import refuse_secrets
from .runfolder import read_json, write_json

DEFAULT_FOLDER = "potstill-workspace"
CONFIG_PLACES = ("config.json", ".azureml/config.json")
MODEL_FIELDS = {
    "folder",
    "hub_id",
    "endpoint",
    "model",
    "api_key",
    "parameters",
    "context",
    "input_per_million",
    "output_per_million",
    "licence_note",
}
FINAL = {"Completed", "Failed", "Canceled", "NotResponding", "Paused"}
PREPARING_STAGES = {None, "prepare", "adapt", "invent"}
FINALIZING_STAGES = {"export", "report"}


@dataclass(frozen=True)
class Workspace:
    """The folder and what its config.json says about models."""

    folder: Path
    models: Mapping[str, Mapping[str, Any]]

    @property
    def jobs(self) -> Path:
        return self.folder / "jobs"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def job_folder(self, name: str) -> Path:
        """The folder of an existing job; raises JobError with the known names."""
        if not (self.jobs / name / "job.yaml").is_file():
            known = [path.parent.name for path in sorted(self.jobs.glob("*/job.yaml"))]
            rest = did_you_mean(name, known) if known else "this workspace has no jobs yet"
            raise JobError(f"no job {name!r} in {self.folder}: {rest}")
        return self.jobs / name

    def job_names(self) -> list[str]:
        """Every job, the latest created last."""
        files = self.jobs.glob("*/distillation.json")
        return [path.parent.name for path in sorted(files, key=lambda path: path.stat().st_mtime)]

    def write_catalog(self, folder: Path) -> None:
        """The workspace's models as the catalog.yaml beside a job file, where they win over the shipped ones."""
        folder.mkdir(parents=True, exist_ok=True)
        entries = {name: catalog_entry(name, fields, self.folder) for name, fields in self.models.items()}
        (folder / "catalog.yaml").write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")


def find_workspace(start: Path) -> Workspace:
    """The workspace of config.json in `start` or a parent; without one ./potstill-workspace, and a line says so."""
    for folder in (start, *start.parents):
        for place in CONFIG_PLACES:
            config = _config(folder / place)
            if config is not None:
                return Workspace(folder, config.get("models") or {})
    folder = start / DEFAULT_FOLDER
    print(f"potstill: no config.json in {start} or a parent; using the workspace {folder}", file=sys.stderr)
    return Workspace(folder, {})


def catalog_entry(name: str, fields: Mapping[str, Any], start: Path) -> dict[str, Any]:
    """A model of config.json as a catalog entry: `endpoint` may be a bare URL, `folder` starts at the config's folder.

    What config.json leaves out comes from the shipped catalog, but for the place and what belongs to another place.
    """
    for field in fields:
        if field not in MODEL_FIELDS:
            raise JobError(f"config.json: models.{name}: unknown key {field!r}: {did_you_mean(field, MODEL_FIELDS)}")
    refuse_secrets(fields, f"config.json: models.{name}")
    entry = {key: value for key, value in fields.items() if key not in {"endpoint", "model", "api_key", "folder"}}
    shipped = known_model(name) or {}
    if "folder" in fields:
        return {**entry, "folder": str((start / os.path.expanduser(fields["folder"])).resolve())}
    if "endpoint" in fields:
        return {**shipped, **entry, "endpoint": _endpoint(name, fields)}
    if not entry:
        raise JobError(f"config.json: models.{name} names no place; give it 'folder', 'hub_id' or 'endpoint'")
    return {**shipped, **entry}


def _endpoint(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    given = fields["endpoint"]
    endpoint = {"base_url": given} if isinstance(given, str) else dict(given)
    own = {key: fields[key] for key in ("model", "api_key") if key in fields}
    return {"kind": "openai_api", "model": name, **endpoint, **own}


def _config(path: Path) -> dict[str, Any] | None:
    """What config.json says; None where there is none, or where it is a model's own config.json."""
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise JobError(f"{path} is not JSON ({error}); MLClient.from_config() reads the workspace from it") from None
    if not isinstance(config, dict) or not isinstance(config.get("models") or {}, dict):
        raise JobError(f"{path} must hold an object, whose 'models' maps names to their places")
    return None if "model_type" in config else config


@dataclass(frozen=True)
class JobProcess:
    """The process that runs a job; `created` tells it from a later process with the same id."""

    job_folder: Path

    @property
    def _file(self) -> Path:
        return self.job_folder / "process.json"

    def remember(self, pid: int) -> None:
        created = psutil.Process(pid).create_time() if psutil.pid_exists(pid) else 0.0
        write_json(self._file, {"pid": pid, "created": created, "cancelled": False})

    def started(self) -> bool:
        return self._file.is_file()

    def cancelled(self) -> bool:
        return self.started() and bool(read_json(self._file)["cancelled"])

    def wrote(self, state: Mapping[str, Any]) -> bool:
        """Whether a run's state is this process' own, and not that of an earlier one that a new one goes on from."""
        if not self.started() or "updated_at" not in state:
            return True
        return datetime.fromisoformat(state["updated_at"]).timestamp() >= float(read_json(self._file)["created"])

    def alive(self) -> bool:
        """Whether it still runs; one that has ended and waits to be reaped does not."""
        if not self.started():
            return False
        record = read_json(self._file)
        try:
            process = psutil.Process(record["pid"])
            same = bool(abs(process.create_time() - record["created"]) < 1.0)
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def cancel(self) -> None:
        """Asks it to stop at the next safe point, as Ctrl-C does."""
        if self.alive():
            record = read_json(self._file)
            write_json(self._file, {**record, "cancelled": True})
            os.kill(record["pid"], signal.SIGINT)


def azure_status(state: Mapping[str, Any], process: JobProcess) -> str:
    """A run's state in Azure's words."""
    status = state.get("status")
    if status == "completed" and (process.wrote(state) or not process.alive()):
        return "Completed"
    if process.alive():
        return _live_status(status, state.get("stage"), process)
    if process.cancelled():
        return "Canceled"
    if status in ("failed", "paused"):
        return "Failed" if status == "failed" else "Paused"
    return "NotResponding" if process.started() else "NotStarted"


def _live_status(status: str | None, stage: str | None, process: JobProcess) -> str:
    if process.cancelled():
        return "CancelRequested"
    if status is None or status != "running":
        return "Starting"
    if stage in PREPARING_STAGES:
        return "Preparing"
    return "Finalizing" if stage in FINALIZING_STAGES else "Running"
