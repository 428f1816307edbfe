"""Which objective teaches best: every objective on the same rows, answers, teacher and student, over several seeds.

    python benchmarks/objectives.py PATH [--data classification_banking77,nli] [--seeds 3] [--only forward_kl,live] [--table FILE]

PATH is the folder of the data sets. For each one the teacher is adapted once and answers once; then each objective trains the
student, which answers the test rows. What is done lies in `--runs` (default runs/objectives) and is not done again: stop it when
you like, and run it again to go on. The table says how many rows are right, what that is against cross entropy on the same text,
on the same rows, and how far the seeds lie apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

if not any(name.startswith("OMP_") for name in os.environ):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

from potstill.generation import generate
from potstill.job import Job, load_job
from potstill.rendering import load_tokenizer, prompt_ids
from potstill.runfolder import RunFolder, read_rows
from potstill.scoring import judge
from potstill.stages import adapt, capture, prepare, train, validate
from potstill.stages import generate as answers
from potstill.statistics import difference, mean_score
from potstill.student import load_model
from potstill.types import Example, Sampling, Score

EXAMPLES = Path(__file__).parents[1] / "examples"
TEACHING = ((prepare, "data"), (adapt, "teacher"), (answers, "answers/answers.jsonl"), (validate, "answers/kept.jsonl"))
SIZES: dict[str, dict[str, Any]] = {
    "classification_banking77": {"max_train_rows": 3000, "adapt": 4, "epochs": 5, "learning_rate": 1.5e-3},
    "classification_clinc150": {"max_train_rows": 3000, "adapt": 4, "epochs": 5, "learning_rate": 1.5e-3},
    "nli": {"max_train_rows": 3000, "adapt": 3, "epochs": 3},
    "qa": {"max_train_rows": 2000, "adapt": 1, "epochs": 2, "max_test_rows": 600},
}
CE = {"kind": "cross_entropy", "weight": 0.25}
BASE = "cross entropy on the teacher's text"
GOLD = "cross entropy on gold"


def with_ce(loss: str, *more: dict[str, Any], **train: Any) -> dict[str, Any]:
    return {"losses": [CE, {"kind": loss, "weight": 0.75}, *more], **train}


OBJECTIVES: dict[str, dict[str, Any]] = {
    BASE: {"losses": ["cross_entropy"]},
    "forward KL, 50 draws (default)": with_ce("forward_kl", signals="sampled", draws=50),
    "forward KL, 12 draws": with_ce("forward_kl", signals="sampled", draws=12),
    "forward KL, 5 draws": with_ce("forward_kl", signals="sampled", draws=5),
    "forward KL, top 50": with_ce("forward_kl", signals="top_k", top_k=50),
    "forward KL, top 12": with_ce("forward_kl", signals="top_k", top_k=12),
    "forward KL, top 5": with_ce("forward_kl", signals="top_k", top_k=5),
    "reverse KL, top 50": with_ce("reverse_kl", signals="top_k", top_k=50),
    "Jensen-Shannon, top 50": with_ce("jensen_shannon", signals="top_k", top_k=50),
    "skewed KL, top 50": with_ce("skew_kl", signals="top_k", top_k=50),
    "forward KL and hidden states": with_ce("forward_kl", {"kind": "hidden_cosine", "weight": 1.0}),
    "own answers, reverse KL, after half the run": {
        "losses": [CE, {"kind": "reverse_kl", "weight": 0.75}],
        "signals": "live",
        "on_policy": {"share": 0.5, "cold_start": 0.5},
    },
    "forward KL and attention relations": with_ce("forward_kl", {"kind": "relation", "weight": 1.0}),
}


class Result(NamedTuple):
    """One training: which of the test rows it got right."""

    data: str
    objective: str
    seed: int
    right: list[float]
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--data", default="classification_banking77,nli")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="objectives whose names contain one of these words")
    parser.add_argument("--runs", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--table", type=Path, help="write the table there and train nothing")
    options = parser.parse_args()
    found = options.runs / "results.jsonl"
    if options.table is None:
        wanted = [word for word in options.only.split(",") if word] or [""]
        chosen = [name for name in OBJECTIVES if any(word in name for word in wanted)]
        for seed in range(options.seeds):
            for data in options.data.split(","):
                teach(data, chosen, seed, options.path, options.runs, found)
    text = "\n".join(table(read_results(found)))
    print(text)
    if options.table is not None:
        options.table.write_text(text + "\n", encoding="utf-8")


def teach(data: str, objectives: list[str], seed: int, path: Path, runs: Path, found: Path) -> None:
    """Every objective of one seed that has no result yet."""
    done = {(one.data, one.objective, one.seed) for one in read_results(found)}
    taught = taught_by(data, path, runs)
    for name in objectives:
        if (data, name, seed) in done:
            continue
        for result in trained(name, seed, data, path, runs, taught):
            with found.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result._asdict()) + "\n")
            print(f"{time.strftime('%H:%M')} {data}, seed {seed}, {result.objective}: {fmean(result.right):.1%}", flush=True)


def job_of(data: str, path: Path, runs: Path, name: str, settings: dict[str, Any]) -> Job:
    size = SIZES[data]
    more = {key: size[key] for key in ("learning_rate",) if key in size}
    sets = [
        f"data.folder={(path / data).resolve()}", f"runs={runs.resolve()}", f"name={name}", "evaluate.control_on=gold",
        f"data.max_train_rows={size['max_train_rows']}", f"teacher.adapt.epochs={size['adapt']}",
        f"train={json.dumps({'epochs': size['epochs'], **more, **settings})}",
    ]  # fmt: skip
    if "max_test_rows" in size:
        sets.append(f"data.max_test_rows={size['max_test_rows']}")
    return load_job(EXAMPLES / f"{data.removeprefix('classification_')}.yaml", sets)


def taught_by(data: str, path: Path, runs: Path) -> RunFolder:
    """The folder with rows, adapted teacher and answers, made once."""
    job = job_of(data, path, runs, f"{data}-teacher", OBJECTIVES[BASE])
    folder = RunFolder(job.run_path)
    with folder.locked():
        for stage, left in TEACHING:
            if not (folder.path / left).exists():
                stage.run(job, folder)
    return folder


def trained(name: str, seed: int, data: str, path: Path, runs: Path, taught: RunFolder) -> Iterator[Result]:
    """Trains and scores one student; with cross entropy also the one that learns from gold alone, in as many steps."""
    settings = {**OBJECTIVES[name], "seed": seed, "validations": 1, "validation_rows": 1}
    is_base = name == BASE
    job = job_of(data, path, runs, f"{data}-student", settings)
    job = job.model_copy(update={"evaluate": job.evaluate.model_copy(update={"control": is_base})})
    folder = RunFolder(job.run_path)
    shutil.rmtree(folder.path, ignore_errors=True)
    with folder.locked():
        for part in ("data", "answers", "teacher"):
            (folder.path / part).symlink_to(taught.path / part, target_is_directory=True)
        start = time.process_time()
        capture.run(job, folder)
        train.run(job, folder)
        seconds = round(time.process_time() - start, 1)
        yield Result(data, name, seed, score(job, folder.model, folder), seconds)
        if is_base:
            yield Result(data, GOLD, seed, score(job, folder.control, folder), seconds)
    shutil.rmtree(folder.path)


def score(job: Job, model_folder: Path, folder: RunFolder) -> list[float]:
    """Which test rows the student gets right, greedily."""
    examples = [Example.from_dict(row) for row in read_rows(folder.data / "test.jsonl")]
    tokenizer, model = load_tokenizer(str(model_folder)), load_model(str(model_folder))
    prompts = [prompt_ids(tokenizer, job.task.prompt(example)) for example in examples]
    right = [0.0] * len(examples)
    for row in generate(model, tokenizer, prompts, Sampling(max_tokens=job.task.max_student_tokens)):
        right[row.index] = judge(job.task, examples[row.index], row.text, row.finish_reason).right or 0.0
    return right


def read_results(found: Path) -> list[Result]:
    return [Result(**row) for row in read_rows(found)] if found.is_file() else []


def table(results: list[Result]) -> Iterator[str]:
    """Markdown: each objective's mean over its seeds, with intervals over the test rows."""
    for data in sorted({one.data for one in results}):
        by_name: dict[str, list[Result]] = {}
        for one in results:
            if one.data == data:
                by_name.setdefault(one.objective, []).append(one)
        yield from [
            "",
            f"### {data}, n = {len(results[0].right if not by_name else next(iter(by_name.values()))[0].right):,}",
            "",
        ]
        yield f"| objective | seeds | right [95%] | lowest and highest seed | against {BASE}, points [95%] |"
        yield "|---|---|---|---|---|"
        base = {one.seed: one for one in by_name.get(BASE, [])}
        for name, runs in sorted(by_name.items(), key=lambda item: (item[0] != GOLD, item[0] != BASE)):
            yield row_of(name, runs, base)


def row_of(name: str, runs: list[Result], base: dict[int, Result]) -> str:
    seeds = sorted(fmean(one.right) for one in runs)
    both = [one for one in runs if one.seed in base and name != BASE]
    gap = difference(over_seeds(both), over_seeds([base[one.seed] for one in both])) if both else None
    cells = (name, len(runs), percent(mean_score(over_seeds(runs))), f"{seeds[0]:.1%}, {seeds[-1]:.1%}", gap and points(gap))
    return "| " + " | ".join(str(cell or "") for cell in cells) + " |"


def percent(score: Score) -> str:
    value, low, high = (100 * (end or 0.0) for end in (score.value, score.low, score.high))
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


def points(gap: Score) -> str:
    value, low, high = (100 * (end or 0.0) for end in (gap.value, gap.low, gap.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def over_seeds(runs: list[Result]) -> list[float]:
    """Each row's mean over the seeds."""
    return [fmean(values) for values in zip(*(one.right for one in runs), strict=True)]


if __name__ == "__main__":
    main()
