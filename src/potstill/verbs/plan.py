"""`potstill plan JOB.yaml`: the job with every default, what is done, and what the rest will take."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..bill import budget_text, models_asked, unpriced_models
from ..checking import retirements
from ..contracts import Teacher
from ..errors import DataError
from ..estimates import Estimate, count_tokens, estimate, size_text, survey
from ..job import Job, load_job
from ..page.numbers import dollars
from ..pipeline import StagePlan, plan_job
from ..pupil import pupil_of
from ..terminal import say, say_json, say_mark

UNKNOWN, NOTHING = "unknown", "nothing"


def plan(job_file: Path, overrides: list[str], as_json: bool) -> None:
    """Nothing is asked, trained or written."""
    job = load_job(job_file, overrides)
    expected = _estimate(job)
    stages = plan_job(job)
    ending = retirements(job)
    written = yaml.safe_load(job_file.read_text(encoding="utf-8"))
    if as_json:
        rows = [{"stage": stage.stage, "done": stage.done} for stage in stages]
        expects = {"estimate": asdict(expected), "warnings": ending}
        say_json({"job": job.resolved(), "run": str(job.run_path), "stages": rows, **expects})
        return
    say(f"# {job_file}, with every default; what the file or --set does not say is marked")
    for line in job_lines(job.resolved(), written, {override.partition("=")[0] for override in overrides}):
        say(line)
    say()
    _say_stages(stages)
    say()
    _say_estimate(expected, job)
    for told in ending:
        say_mark("warning", "teacher", told)


def job_lines(resolved: dict[str, Any], written: Any, overridden: set[str], path: str = "") -> list[str]:
    """The resolved job as YAML lines; a value that nobody wrote ends with `# default`."""
    lines = []
    for key, value in resolved.items():
        here = f"{path}.{key}" if path else key
        indent = "  " * here.count(".")
        given = isinstance(written, dict) and key in written
        if isinstance(value, dict) and value:
            inner = written[key] if given else {}
            if not isinstance(inner, dict):  # a short form: a model's name, a plug-in's kind, a data file
                inner = {next(name for name in ("model", "train", "kind") if name in value): inner}
            lines += [f"{indent}{key}:", *job_lines(value, inner, overridden, here)]
            continue
        said = given or any(name == here or here.startswith(f"{name}.") for name in overridden)
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
        lines.append(f"{indent}{key}: {text}{'' if said else '  # default'}")
    return lines


def _estimate(job: Job) -> Estimate:
    surveyed = survey(job)
    problems = [problem for found in surveyed.values() for problem in found.problems]
    if problems:
        raise DataError(problems[0])
    pupil, reads_only = pupil_of(job), bool(job.labels)
    tokens = count_tokens(surveyed["train"].sample, job.task, pupil.tokenizer, pupil.max_length, reads_only=reads_only)
    return estimate(job, surveyed, tokens)


def _say_stages(stages: list[StagePlan]) -> None:
    for stage in stages:
        say(f"{'done' if stage.done else 'to do':<6} {stage.stage}")


def _say_estimate(expected: Estimate, job: Job) -> None:
    memory, disk = (size_text(value) for value in (expected.memory_bytes, expected.disk_bytes))
    took = "unknown" if expected.seconds is None else f"about {max(1, round(expected.seconds / 60))} min"
    say(f"teacher   {expected.teacher_requests:,} rows, {expected.prompt_tokens:,} + {expected.answer_tokens:,} tokens")
    if len(expected.teachers) > 1:
        for one in expected.teachers:
            say(f"          {one.label}: {one.requests:,} answers, {_cost(one.cost_usd, one.most_usd)}")
    cost = _cost(expected.cost_usd, expected.most_usd)
    say(f"cost      {cost}{_why(cost, job)}; answers that are in the journal already cost nothing")
    if job.budget.is_set:
        say(f"budget    {budget_text(job.budget)}; the run stops before it goes over")
    say(f"training  {expected.training_tokens:,} tokens")
    say(f"memory    {memory} and the activations")
    say(f"disk      {disk}")
    say(f"time      {took} ({expected.how})")


def _cost(cost: float | None, most: float | None) -> str:
    if cost is None or most is None:
        return UNKNOWN
    return NOTHING if most == 0 else f"about {dollars(cost)}, at most {dollars(most)}"


def _why(cost: str, job: Job) -> str:
    """Why a job costs nothing, or why nobody knows what it costs."""
    if cost == UNKNOWN:
        return f" (no price is known for {' and for '.join(unpriced_models(job))})"
    if cost == NOTHING:
        free = [model for model in models_asked(job) if model.price().cost(1_000_000, 1_000_000) == 0]
        return f" ({' and '.join(dict.fromkeys(map(_free, free)))})" if free else " (nobody is asked)"
    return ""


def _free(model: Teacher) -> str:
    if model.local_model() is not None:
        return "a local teacher"
    return "a scripted teacher" if model.kind == "scripted" else f"the job's price of {model.label} is 0"
