"""Stage export: the student as files that run elsewhere, one folder a kind under exports/, each compared with the student."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..contracts import Exporter
from ..errors import ModelError
from ..job import Job
from ..parity import Asked, certificate, reference_of
from ..progress import Progress
from ..pupil import pupil_of
from ..runfolder import RunFolder, read_json, read_rows, replaced_folder, seconds_since, write_json
from ..runtimes import load_runtime
from ..scoring import spread
from ..types import Example

ROWS_COMPARED = 32


def inputs(job: Job) -> Any:
    """The exporters and their settings; the model itself comes in by the fingerprint of the train stage."""
    return [exporter.model_dump(mode="json") for exporter in job.exports]


def run(job: Job, folder: RunFolder) -> None:
    """Writes every export whole or not at all and compares it with the student; one that cannot be made is noted and left out."""
    architecture = (read_json(folder.model / "config.json").get("architectures") or ["unknown"])[0]
    made: list[Exporter] = []
    with Progress(folder, "export", len(job.exports)) as bar:
        for exporter in job.exports:
            problem = exporter.problem(architecture)
            if problem is not None:
                folder.event("note", message=f"export {exporter.kind} left out: {problem}")
            elif _export(exporter, folder):
                made.append(exporter)
            bar.advance(1, note=exporter.kind)
    _certify(job, folder, made)


def _export(exporter: Exporter, folder: RunFolder) -> bool:
    start = time.perf_counter()
    try:
        with replaced_folder(folder.exports / exporter.kind) as target:
            exporter.export(folder.model, target)
    except (ModelError, MemoryError) as error:
        why = str(error) or "memory ran out"
        folder.event("note", message=f"export {exporter.kind} left out: {why}")
        return False
    size = sum(file.stat().st_size for file in (folder.exports / exporter.kind).rglob("*") if file.is_file())
    folder.event("exported", kind=exporter.kind, size_bytes=size, seconds=seconds_since(start))
    return True


def _certify(job: Job, folder: RunFolder, made: Sequence[Exporter]) -> None:
    """exports/parity.json; a file that does not say what the student says gets `.failed` behind its name."""
    artefacts = [one for exporter in made for one in exporter.artefacts(folder.model, folder.exports / exporter.kind)]
    certificates: list[dict[str, Any]] = []
    if artefacts:
        reference = reference_of(load_runtime(folder.model), _asked(job, folder))
        with Progress(folder, "compare exports", len(artefacts)) as bar:
            for artefact in artefacts:
                found = certificate(artefact, reference)
                folder.event("parity", **found)
                if not found["passed"]:
                    folder.event("note", message=f"export {artefact.name} failed and is not offered: {found['why']}")
                    for file in artefact.files:
                        file.replace(file.with_name(f"{file.name}.failed"))
                certificates.append(found)
                bar.advance(1, note=artefact.name)
    folder.exports.mkdir(parents=True, exist_ok=True)
    write_json(folder.exports / "parity.json", certificates)


def _asked(job: Job, folder: RunFolder) -> list[Asked]:
    """Some test prompts with what the student answered to them; none where it has not been evaluated."""
    answers = folder.evaluation / "student.jsonl"
    if not answers.is_file():
        return []
    pupil = pupil_of(job)
    examples = [Example.from_dict(row) for row in read_rows(folder.data / "test.jsonl")]
    asked = []
    for example, answer in spread(list(zip(examples, read_rows(answers), strict=True)), ROWS_COMPARED):
        if answer.get("error") is None:
            prompt = pupil.asked(example)
            said = [] if job.labels else list(pupil.tokenizer(answer["text"], add_special_tokens=False)["input_ids"])
            asked.append(Asked([*prompt, *said], len(prompt) - 1))
    return asked
