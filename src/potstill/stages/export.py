"""Stage export: the student as files that run somewhere else, one folder a kind under exports/."""

from __future__ import annotations

import time
from typing import Any

from ..contracts import Exporter
from ..errors import ModelError
from ..job import Job
from ..progress import Progress
from ..runfolder import RunFolder, read_json, replaced_folder, seconds_since


def inputs(job: Job) -> Any:
    """The exporters and their settings; the model itself comes in by the fingerprint of the train stage."""
    return [exporter.model_dump(mode="json") for exporter in job.exports]


def run(job: Job, folder: RunFolder) -> None:
    """Writes every export whole or not at all; one that cannot be made of this model is noted and left out."""
    architecture = (read_json(folder.model / "config.json").get("architectures") or ["unknown"])[0]
    with Progress(folder, "export", len(job.exports)) as bar:
        for exporter in job.exports:
            problem = exporter.problem(architecture)
            if problem is not None:
                folder.event("note", message=f"export {exporter.kind} left out: {problem}")
            else:
                _export(exporter, folder)
            bar.advance(1, note=exporter.kind)


def _export(exporter: Exporter, folder: RunFolder) -> None:
    start = time.perf_counter()
    try:
        with replaced_folder(folder.exports / exporter.kind) as target:
            exporter.export(folder.model, target)
    except (ModelError, MemoryError) as error:
        why = str(error) or "memory ran out"
        folder.event("note", message=f"export {exporter.kind} left out: {why}")
        return
    size = sum(file.stat().st_size for file in (folder.exports / exporter.kind).rglob("*") if file.is_file())
    folder.event("exported", kind=exporter.kind, size_bytes=size, seconds=seconds_since(start))
