"""Everything about a job that can be wrong, looked at without spending anything or loading weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from .architectures import architecture_of, writes_text
from .bill import budget_text, models_asked, unpriced_models
from .catalog import retired_on
from .classifier import classifier_architecture, longest_text
from .contracts import LayerLoss, Teacher
from .crossing import crossing_problem
from .depth import cut_config, depth_of, kept_layers, refuse_layers_made_by_their_place
from .errors import JobError, ModelError
from .estimates import Estimate, SplitSurvey, Tokens, count_tokens, estimate, parameters_of, size_text, survey
from .insides import examine_config
from .job import Job
from .lessons import longest_row
from .page.numbers import dollars
from .rendering import load_tokenizer, prompt_ids, tokenizer_problems, vocabulary_difference
from .student import load_config
from .transfer import layer_problem, pairs_of
from .types import Message, Signal

FEW_TEST_ROWS = 100
WITH_LABELS = "set student.head to labels, for a task with a closed set of them (nli, classification with labels)"
WORTH_A_WARNING = 0.02
"""Share of rows longer than the student takes above which a person should know."""


class Finding(NamedTuple):
    """One line of `potstill check`."""

    level: Literal["ok", "warning", "problem"]
    subject: str
    text: str


def check_job(job: Job) -> list[Finding]:
    """Data, tokenizers, vocabularies, losses, teacher, lengths, exporters, disk and memory."""
    surveyed = survey(job)
    student, student_findings = _student_tokenizer(job)
    findings = [*_data(job, surveyed), *student_findings, *_teachers(job, student), *_losses(job)]
    tokens = None
    config, config_findings = _config(job) if student is not None else (None, [])
    findings += config_findings
    if student is not None and config is not None:
        max_length = longest_row(job.student.max_length, config.context)
        tokens = count_tokens(surveyed["train"].sample, job.task, student, max_length, reads_only=bool(job.labels))
        findings += [*_lengths(tokens, max_length), *_labels(job, surveyed)]
    if config is not None:
        findings += _exports(job, config.architecture)
    if not any(found.level == "problem" for found in findings):
        findings += _room(job, surveyed, tokens)
    return findings


def refuse_problems(job: Job) -> None:
    """Raises JobError with every problem that would only show after answers were paid for; the data is read in prepare."""
    student, findings = _student_tokenizer(job)
    config, config_findings = _config(job) if student is not None else (None, [])
    findings = [*findings, *_teachers(job, student), *config_findings]
    if config is not None:
        findings += _exports(job, config.architecture)
    problems = [found.text for found in findings if found.level == "problem"]
    if problems:
        raise JobError("; ".join(problems))


class _Config(NamedTuple):
    architecture: str
    context: int | None


def _data(job: Job, surveyed: dict[str, SplitSurvey]) -> Iterator[Finding]:
    for split, found in surveyed.items():
        yield from (Finding("problem", f"data.{split}", problem) for problem in found.problems)
        total = found.rows + found.rejected.total()
        if total == 0:
            continue
        if found.rows / total < job.data.min_valid_share:
            text = f"{found.rows:,} of {total:,} rows are usable, and data.min_valid_share is {job.data.min_valid_share}"
            yield Finding("problem", f"data.{split}", f"{text}; the first: {found.first_rejection}")
        elif found.rejected:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.rejected.most_common())
            yield Finding("warning", f"data.{split}", f"{total - found.rows:,} of {total:,} rows are left out ({reasons})")
        if found.rows:
            yield Finding("ok", f"data.{split}", f"{found.rows:,} rows, {found.gold:,} with gold")
    test = surveyed["test"]
    rows = test.rows or int(surveyed["train"].rows * job.data.test_share)
    gold = test.gold if test.rows else int(surveyed["train"].gold * job.data.test_share)
    if rows and not gold:
        yield Finding("warning", "data.test", "no test row has gold, so there will be no accuracy")
    elif 0 < rows < FEW_TEST_ROWS:
        yield Finding("warning", "data.test", f"about {rows} test rows prove little; a few hundred give a useful interval")


def _tokenizer(role: str, model: str, loading: dict[str, Any]) -> tuple[PreTrainedTokenizerBase | None, list[Finding]]:
    try:
        tokenizer = load_tokenizer(model, **loading)
        problems = tokenizer_problems(tokenizer)
    except ModelError as error:
        return None, [Finding("problem", f"{role} tokenizer", str(error))]
    if problems:
        return tokenizer, [Finding("warning", f"{role} tokenizer", problem) for problem in problems]
    said = f"{len(tokenizer):,} tokens; the chat template ends a turn with the tokenizer's end token {tokenizer.eos_token!r}"
    return tokenizer, [Finding("ok", f"{role} tokenizer", said)]


def _student_tokenizer(job: Job) -> tuple[PreTrainedTokenizerBase | None, list[Finding]]:
    if not job.labels:
        silent = _writes_no_text(job)
        return (None, [silent]) if silent else _tokenizer("student", job.student.model, _student_loading(job))
    try:
        tokenizer = load_tokenizer(job.student.model, reads_only=True, **_student_loading(job))
    except ModelError as error:
        return None, [Finding("problem", "student tokenizer", str(error))]
    read = "its chat template" if tokenizer.chat_template else "plain text"
    return tokenizer, [Finding("ok", "student tokenizer", f"{len(tokenizer):,} tokens; rows are read as {read}")]


def _writes_no_text(job: Job) -> Finding | None:
    try:
        config = load_config(job.student.model, **_student_loading(job)).to_dict()
    except ModelError:
        return None  # said of the tokenizer, or of the student
    if writes_text(config):
        return None
    return Finding(
        "problem", "student", f"{job.student.model} is a {architecture_of(config)}, which writes no text; {WITH_LABELS}"
    )


def _labels(job: Job, surveyed: dict[str, SplitSurvey]) -> Iterator[Finding]:
    """Gold answers that a head of labels has no output for."""
    for split, found in surveyed.items() if job.labels else ():
        golds = [example.gold for example in found.sample if example.gold is not None]
        strange = [gold for gold in golds if job.task.read(gold) not in job.labels]
        if strange:
            said = f"{len(strange):,} of {len(golds):,} sampled gold answers are none of task.labels, such as {strange[0][:60]!r}"
            yield Finding("warning", f"data.{split}", f"{said}; they cannot teach: add them to task.labels, or mend them")


def _student_loading(job: Job) -> dict[str, Any]:
    return {"revision": job.student.revision, "trust_remote_code": job.student.trust_remote_code}


def _teachers(job: Job, student: PreTrainedTokenizerBase | None) -> Iterator[Finding]:
    problems = [problem for teacher in job.teachers for problem in teacher.problems()]
    problems += job.combine.problems(job.teachers, job.task) if job.combine else []
    problems += [said for check in (*job.data.checks, *job.validation.checks) for said in check.problems(job.teachers, job.task)]
    unpriced = unpriced_models(job) if job.budget.max_cost_usd else []
    if unpriced:
        said = f"budget.max_cost_usd is set and the price of {' and of '.join(unpriced)} is unknown"
        problems.append(f"{said}; give it input_per_million and output_per_million, or use budget.max_tokens")
    yield from (Finding("problem", "teacher", problem) for problem in problems)
    yield from (Finding("warning", "teacher", told) for told in retirements(job))
    if problems:
        return
    for teacher in job.teachers:
        yield from _teacher(job, teacher, student)


def retirements(job: Job) -> list[str]:
    """What the catalog says of models that will be asked and that their providers end, or have ended."""
    told = []
    for model in models_asked(job):
        urls = getattr(model, "base_url", ())
        day = retired_on(str(getattr(model, "model", "")), (urls,) if isinstance(urls, str) else urls, job.folder)
        if day is None:
            continue
        is_gone = day <= date.today()
        when = f"has not been served since {day}" if is_gone else f"will not be served from {day} on"
        cure = "name another model, or correct catalog.yaml" if is_gone else "let the job end before, or name another model"
        told.append(f"the catalog says that {model.label} {when}; {cure}")
    return told


def _teacher(job: Job, teacher: Teacher, student: PreTrainedTokenizerBase | None) -> Iterator[Finding]:
    place = teacher.local_model()
    if place is None:
        yield Finding("ok", "teacher", f"{teacher.label} can be asked; it gives {teacher.gives.name.lower()}")
        if job.reads_replies and job.train.on_cells() and student is not None and not job.labels:
            problem = crossing_problem(job, [student])
            said = "its replies' log-probabilities are aligned by bytes with the student's tokens"
            yield Finding("problem" if problem else "ok", "vocabularies", problem or said)
        return
    tokenizer, findings = _tokenizer("teacher", place, teacher.loading())
    yield from findings
    try:
        load_config(place, **teacher.loading())
        size = parameters_of(place)
    except ModelError as error:
        yield Finding("problem", "teacher", str(error))
        return
    if Path(place).is_dir() and size is None:
        yield Finding("problem", "teacher", f"{place} holds no safetensors weights; convert it to safetensors")
    if tokenizer is not None and student is not None and not job.labels:
        yield from _vocabularies(job, tokenizer, student)
        yield from _layers(job, teacher)


def _vocabularies(job: Job, teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> Iterator[Finding]:
    difference = vocabulary_difference(student, teacher)
    compared = [loss.kind for loss in job.train.losses if loss.needs > Signal.TEXT]
    if difference is None:
        yield Finding("ok", "vocabularies", "teacher and student have the same token -> id map")
        hello = [Message("user", "hello")]
        if compared and prompt_ids(student, hello) != prompt_ids(teacher, hello):
            said = "the teacher's own chat template differs; its log-probabilities are taken on prompts in the student's template"
            yield Finding(
                "warning", "chat templates", f"{said}, which it may not know; give both the same, or compare the losses"
            )
    elif compared:
        problem = crossing_problem(job, [student, teacher])
        said = f"they differ ({difference}); {', '.join(compared)}: their tokens are aligned by bytes"
        yield Finding("problem" if problem else "ok", "vocabularies", problem or said)
    else:
        yield Finding("ok", "vocabularies", f"they differ ({difference}); cross_entropy, which needs text alone, works")


def _layers(job: Job, teacher: Teacher) -> Iterator[Finding]:
    """Losses on layers against how both models are built, which their configurations say."""
    losses = [loss for loss in job.train.losses if isinstance(loss, LayerLoss)]
    if not losses:
        return
    try:
        config = load_config(job.student.model, **_student_loading(job))
        if job.student.layers is not None:
            config = cut_config(config, kept_layers(job.student.layers, depth_of(config)))
        own = examine_config(config, job.student.trust_remote_code)
        other = examine_config(
            load_config(str(teacher.local_model()), **teacher.loading()), bool(teacher.loading().get("trust_remote_code"))
        )
    except ModelError as error:
        yield Finding("problem", "layers", str(error))
        return
    for loss in losses:
        problem = layer_problem(loss, own, other)
        said = ", ".join(f"{pair.student} from {pair.teacher}" for pair in pairs_of(loss, own, other)) if problem is None else ""
        yield Finding(
            "problem" if problem else "ok", f"layers of {loss.kind}", problem or f"the student's {said} of the teacher's"
        )


def _losses(job: Job) -> Iterator[Finding]:
    losses = ", ".join(f"{_ramp(loss.weight, loss.final_weight)} x {loss.kind}" for loss in job.train.losses)
    if job.train.final_temperature is not None:
        losses += f", at temperature {_ramp(job.train.temperature, job.train.final_temperature)}"
    if job.labels:
        is_soft = any(loss.needs > Signal.TEXT for loss in job.train.losses)
        losses += f" over {len(job.labels)} labels" + (f", at temperature {job.train.temperature:g}" if is_soft else "")
    own = job.train.on_policy
    if own is not None:
        losses += f", after {own.cold_start:.0%} of the steps on own answers of {own.share:.0%} of the rows"
    gives = ", ".join(f"{teacher.label} gives {teacher.gives.name.lower()}" for teacher in job.teachers)
    yield Finding("ok", "losses", f"{losses}; {gives}")


def _ramp(first: float, final: float | None) -> str:
    return f"{first:g}" if final is None else f"{first:g} to {final:g}"


def _config(job: Job) -> tuple[_Config | None, list[Finding]]:
    student = job.student
    try:
        read = load_config(student.model, revision=student.revision, trust_remote_code=student.trust_remote_code)
        context = getattr(read.get_text_config(), "max_position_embeddings", None)
        architecture = (read.architectures or ["unknown"])[0]
        depth = _depth(job, read)
        if job.labels:
            context = longest_text(read, load_tokenizer(student.model, reads_only=True, **_student_loading(job)))
            architecture = classifier_architecture(read, architecture)
        size = parameters_of(student.model, student.layers)
    except ModelError as error:
        return None, [Finding("problem", "student", str(error))]
    if Path(student.model).is_dir() and size is None:
        return None, [Finding("problem", "student", f"{student.model} holds no safetensors weights; convert it to safetensors")]
    said = f"{size:,} parameters" if size is not None else "weights not on this machine; they are downloaded when it runs"
    return _Config(architecture, context), [Finding("ok", "student", f"{architecture}{depth}, {said}, context {context}")]


def _depth(job: Job, whole: PretrainedConfig) -> str:
    """Which layers a shallower student keeps; raises ModelError where it cannot have them."""
    if job.student.layers is None:
        return ""
    kept = kept_layers(job.student.layers, depth_of(whole))
    refuse_layers_made_by_their_place(whole, cut_config(whole, kept), kept, job.student.trust_remote_code)
    return f", layers {', '.join(map(str, kept))} of {depth_of(whole)}"


def _lengths(tokens: Tokens, max_length: int) -> Iterator[Finding]:
    if tokens.unrendered:
        yield Finding("warning", "lengths", f"the chat template refuses {tokens.unrendered} of the sampled rows")
    if not tokens.sampled:
        return
    share = tokens.too_long / tokens.sampled
    said = f"{tokens.too_long} of {tokens.sampled} sampled rows ({share:.1%}) are longer than {max_length} tokens"
    if share > WORTH_A_WARNING:
        yield Finding("warning", "lengths", f"{said} and would be left out; raise student.max_length")
    else:
        yield Finding("ok", "lengths", f"{said}; {tokens.prompt:.0f} prompt and {tokens.answer:.0f} answer tokens on average")


def _exports(job: Job, architecture: str) -> Iterator[Finding]:
    for exporter in job.exports:
        problem = exporter.problem(architecture)
        yield Finding("problem" if problem else "ok", f"export {exporter.kind}", problem or f"takes {architecture}")


def _room(job: Job, surveyed: dict[str, SplitSurvey], tokens: Tokens | None) -> Iterator[Finding]:
    needed = estimate(job, surveyed, tokens)
    yield from _money(job, needed)
    place = next(folder for folder in (job.run_path, *job.run_path.parents) if folder.exists())
    yield _compare("disk", needed.disk_bytes, shutil.disk_usage(place).free)
    yield _compare("memory", needed.memory_bytes, psutil.virtual_memory().available)


def _money(job: Job, needed: Estimate) -> Iterator[Finding]:
    cap = job.budget.max_cost_usd
    if cap is not None and needed.cost_usd is not None and needed.cost_usd > cap:
        said = f"about {dollars(needed.cost_usd)} are expected and budget.max_cost_usd is {dollars(cap)}"
        yield Finding("warning", "budget", f"{said}; the run will stop before it goes over, and a higher cap goes on from there")
    elif job.budget.is_set:
        yield Finding("ok", "budget", f"the run stops before it goes over {budget_text(job.budget)}")


def _compare(what: str, needed: int | None, free: int) -> Finding:
    if needed is None:
        return Finding("ok", what, f"{size_text(free)} free; what the run needs is unknown before the weights are here")
    level: Literal["ok", "problem"] = "ok" if needed < free else "problem"
    return Finding(level, what, f"about {size_text(needed)} needed, {size_text(free)} free")
