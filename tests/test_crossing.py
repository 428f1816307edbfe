"""A job whose teacher has other tokens, from kept answers to a student: weights here, or log-probabilities of replies."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from chat_server import ChatServer, _completion
from other_tokens import save_other, tokenizer_of
from processes import in_two_processes, killed_and_resumed
from safetensors.torch import load_file

from potstill.answers.sieve import Sifted
from potstill.checking import check_job
from potstill.contracts import Answered
from potstill.crossing import aligned_signals, crosses
from potstill.curriculum import unsureness
from potstill.errors import JobError, JobFailedError
from potstill.job import Job
from potstill.lessons import read_lessons
from potstill.pipeline import run_job
from potstill.plugins import load_plugin
from potstill.pupil import pupil_of
from potstill.runfolder import RunFolder, fingerprint, read_rows, write_rows
from potstill.spelling import Spelling
from potstill.stages import capture, train
from potstill.stages.validate import _lessons, _Line
from potstill.training import Training
from potstill.training import train as train_loop
from potstill.types import Example, Lesson, Message, Reply

ANSWERS = ["The router light is red.", "Größe über Köln 🙂", "日本", "Yes", "12,345 €\n\nDone.", "No, the light is green."]


def job_of(folder: Path, teacher: Any, student: str = "metaspace", name: str = "run", **settings: Any) -> Job:
    chosen = {"losses": ["cross_entropy", "forward_kl"], "batch_size": 4, "epochs": 2, "validations": 1, "top_k": 8, **settings}
    place = folder / student.replace(" ", "-")
    if not place.is_dir():
        save_other(place, student, seed=5)
    if not isinstance(teacher, dict):
        if not (folder / "teacher").is_dir():
            save_other(folder / "teacher", teacher, hidden=64, seed=6)
        teacher = {"kind": "huggingface", "model": str(folder / "teacher")}
    return Job(
        folder=folder, name=name, task="conversation", data="train.jsonl", teacher=teacher, student=str(place), train=chosen
    )


def made_run(job: Job, answers: list[str] = ANSWERS) -> RunFolder:
    folder = RunFolder(job.run_path)
    rows = [Example(str(n), (Message("user", f"Row {n}, {'please ' * (n % 3)}go."),)) for n in range(len(answers))]
    lessons = [
        Lesson(row, text, "teacher", weight=1.0 + (n == 2)) for n, (row, text) in enumerate(zip(rows, answers, strict=True))
    ]
    write_rows(folder.answers / "kept.jsonl", (lesson.as_dict() for lesson in lessons))
    write_rows(folder.answers / "validation.jsonl", (lesson.as_dict() for lesson in lessons[:2]))
    write_rows(folder.data / "validation.jsonl", (example.as_dict() for example in rows[:2]))
    return folder


def events(folder: RunFolder, kind: str) -> list[Mapping[str, Any]]:
    return [event for event in read_rows(folder.path / "events.jsonl") if event["event"] == kind]


def weights(folder: RunFolder) -> Mapping[str, torch.Tensor]:
    return load_file(folder.model / "model.safetensors")


def largest_gap(one: RunFolder, other: RunFolder) -> float:
    pairs = [(tensor, weights(other)[name]) for name, tensor in weights(one).items()]
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("loss", ["forward_kl", "universal_logit"])
def test_a_student_learns_from_a_teacher_of_other_tokens(loss: str, tmp_path: Path) -> None:
    """Through the stages; the loss falls, and the teacher is scored once however often it is trained."""
    job = job_of(tmp_path, "large bytes", losses=[loss], epochs=20, learning_rate=5e-3)
    assert crosses(job)
    folder = made_run(job)
    capture.run(job, folder)
    (captured,) = events(folder, "captured")
    assert captured["rows"] == len(ANSWERS)
    train.run(job, folder)
    assert len(events(folder, "captured")) == 1
    losses = [event["loss"] for event in events(folder, "step") if event["role"] == "student"]
    assert losses[-1] < 0.5 * losses[0], f"{losses[0]} to {losses[-1]}"
    assert (folder.control / "config.json").is_file()


@pytest.mark.parametrize(
    "change", [{"packing": False}, {"micro_batch_tokens": 16}, {"precision": "fp32", "micro_batch_tokens": 64}]
)
def test_packing_and_accumulation_change_no_weight(change: dict[str, Any], tmp_path: Path) -> None:
    losses = ["cross_entropy", "forward_kl", "universal_logit"]
    found = []
    for name, settings in (("plain", {}), ("changed", change)):
        job = job_of(tmp_path, "llama", "bytes", name, losses=losses, **settings)
        folder = made_run(job)
        train.run(job, folder)
        found.append(folder)
    assert largest_gap(*found) < 5e-5


def trained(folder: Path, name: str, **settings: Any) -> RunFolder:
    job = job_of(folder, "large bytes", "metaspace", name, **{"losses": ["cross_entropy", "forward_kl"], **settings})
    run = made_run(job)
    train.run(job, run)
    return run


def test_killed_at_any_moment_it_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    settings = {"epochs": 30, "checkpoint_every": 5}
    unbroken = trained(tmp_path, "unbroken", **settings)
    code = (
        "from pathlib import Path; from test_crossing import trained\n"
        "trained(Path(sys.argv[1]), 'killed', epochs=30, checkpoint_every=5)"
    )
    killed_and_resumed(tmp_path, code, tmp_path / "runs" / "killed" / "events.jsonl", [12, 40], tmp_path)
    killed = RunFolder(tmp_path / "runs" / "killed")
    assert [event for event in events(killed, "note") if "resumed" in event["message"]]
    assert largest_gap(unbroken, killed) < 1e-6


def test_rows_that_a_tokenizer_changes_learn_their_text_alone(tmp_path: Path) -> None:
    """U+2581 in a text comes back as a blank from a SentencePiece teacher: no target for the divergence, and the run says so."""
    job = job_of(tmp_path, "llama", "bytes", losses=["forward_kl"])
    folder = made_run(job, ["fine \u2581 odd", *ANSWERS])
    train.run(job, folder)
    (note,) = [event["message"] for event in events(folder, "note") if "laid beside" in event["message"]]
    assert note.startswith("1 of 7 rows")
    lost = job_of(tmp_path, "llama", "bytes", "lost")
    with pytest.raises(JobFailedError, match="no answer can be laid beside the teacher's tokens"):
        capture.run(lost, made_run(lost, ["\u2581", "\u2581\u2581"]))


def test_rows_may_come_by_the_confidence_of_such_a_teacher(tmp_path: Path) -> None:
    """Rows without a target come last."""
    job = job_of(tmp_path, "llama", "bytes", losses=["forward_kl"], curriculum="confidence")
    folder = made_run(job, ["fine \u2581 odd", *ANSWERS])
    pupil, lessons = pupil_of(job), list(read_lessons(folder.answers / "kept.jsonl"))
    rows = pupil.encode(lessons).rows
    first, *others = unsureness(aligned_signals(job, folder, pupil, lessons, rows), rows)
    assert math.isinf(first)
    assert all(0 < one < math.log(9) + 1e-6 for one in others), others
    train.run(job, folder)


def test_equal_tokens_are_compared_as_before(teacher_folder: Path, student_folder: Path, tmp_path: Path) -> None:
    job = Job(folder=tmp_path, name="run", task="conversation", data="train.jsonl", student=str(student_folder),
              teacher={"kind": "huggingface", "model": str(teacher_folder)})  # fmt: skip
    assert not crosses(job)
    assert job.samples_signals


def test_what_needs_equal_tokens_is_refused_before_anything_is_paid_for(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n' * 20
    )
    wrong = {
        "sampled": ({"signals": "sampled", "losses": ["forward_kl"]}, "set train.signals to top_k or auto"),
        "live": ({"signals": "live"}, "set train.signals to top_k or auto"),
        "layers": ({"losses": ["forward_kl", "hidden_mse"]}, "hidden_mse compares layers token by token"),
    }
    for settings, said in wrong.values():
        job = job_of(tmp_path, "large bytes", **settings)
        problems = [found.text for found in check_job(job) if found.level == "problem"]
        assert len(problems) == 1
        assert said in problems[0]
        with pytest.raises(JobError, match="different"):
            train.run(job, made_run(job))
    both = [
        {"kind": "huggingface", "model": str(save_other(tmp_path / kind, kind)), "name": kind} for kind in ("llama", "digits")
    ]
    for teachers in (both, [{"kind": "huggingface", "model": str(tmp_path / "metaspace"), "name": "same"}, both[0]]):
        job = Job(folder=tmp_path, name="two", task="conversation", data="train.jsonl", teacher=teachers,
                  student=str(tmp_path / "metaspace"), train={"losses": ["forward_kl"]})  # fmt: skip
        assert any("have different vocabularies" in found.text for found in check_job(job) if found.level == "problem")
    fine = [found for found in check_job(job_of(tmp_path, "large bytes")) if found.subject == "vocabularies"]
    assert [found.level for found in fine] == ["ok"]
    assert "aligned by bytes" in fine[0].text


def told(text: str) -> dict[str, Any]:
    """Log-probabilities as a server with tokens of its own gives them."""
    tokenizer, keys = tokenizer_of("large bytes"), Spelling(tokenizer_of("large bytes")).keys
    words = [keys[word] for word in tokenizer(text, add_special_tokens=False)["input_ids"]]

    def entry(word: Any, logprob: float) -> dict[str, Any]:
        return {"token": word.decode(errors="replace"), "logprob": logprob, "bytes": list(word)}

    others = [(b"The", -2.5), (b" light", -3.0), (b"X", -4.0)]
    return {
        "content": [
            {**entry(word, -0.25), "top_logprobs": [entry(word, -0.25), *(entry(*other) for other in others if other[0] != word)]}
            for word in words
        ]
    }


@dataclass
class TellingServer(ChatServer):
    """Tells how likely each token was, except where the answer is "silent"."""

    async def _reply(self, request: web.Request, question: str) -> web.StreamResponse:
        body = _completion(question, self.answer(question), "stop")
        if question != "silent":
            body["choices"][0]["logprobs"] = told(self.answer(question))
        return web.json_response(body)


def api_job(folder: Path, url: str, **settings: Any) -> Job:
    chosen = {"losses": ["cross_entropy", "forward_kl", "universal_logit"], "batch_size": 4, "epochs": 2, "validations": 1}
    place = folder / "student"
    if not place.is_dir():
        save_other(place, "metaspace", seed=5)
    asked = ["silent", "Größe 🙂?", "Is the light red?", *(f"question {n}" for n in range(9))]
    rows = [{"messages": [{"role": "user", "content": text}]} for text in asked]
    held_out = [[{"role": "user", "content": f"held out {n}"}, {"role": "assistant", "content": "RED"}] for n in range(8)]
    gold = [{"messages": chat} for chat in held_out]
    for name, lines in (("train", rows), ("validation", gold[:4]), ("test", gold[4:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    data = {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl", "checks": []}
    teacher = {"kind": "openai_api", "base_url": url, "model": "big", "provider": "vllm", "top_logprobs": 3}
    return Job(
        folder=folder, name="run", task={"kind": "conversation", "max_answer_tokens": 20}, data=data, teacher=teacher,
        student=str(place), train={**chosen, **settings}, exports=[], validation={"checks": ["empty"]},
    )  # fmt: skip


def test_the_log_probabilities_of_an_api_teach_a_student_with_tokens_of_its_own(tmp_path: Path) -> None:
    """The whole journey; the reply without log-probabilities teaches its text, and the run says so. Nobody is asked twice."""
    with TellingServer() as server:
        job = api_job(tmp_path, server.url)
        assert job.reads_replies
        assert any("aligned by bytes" in found.text for found in check_job(job))
        folder = run_job(job)
        asked = server.asked.total()
        lessons = list(read_lessons(folder.answers / "kept.jsonl"))
        assert sum(bool(lesson.told) for lesson in lessons) == len(lessons) - 1 == 11
        notes = [event["message"] for event in events(folder, "note") if "log-probabilities" in event["message"]]
        assert len(notes) == 1
        assert notes[0].startswith("1 of 12 rows have no log-probabilities of just their text")
        assert (folder.model / "config.json").is_file()
        run_job(job)
        assert server.asked.total() == asked


def test_a_changed_text_or_an_earlier_turn_has_no_log_probabilities_of_its_own() -> None:
    reply = Reply("the light", logprobs=[["746865206c69676874", -0.5, []]])
    task = load_plugin("tasks", "conversation")
    chat = Example("1", (Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
    sifted = Sifted(Answered(chat, reply, "teacher", None), None)
    line = _Line(reply, "teacher", ("earlier",), None, None, 1.0, None)
    first, last = _lessons(task, line, sifted)
    assert (first.told, last.told) == ("", fingerprint(reply.logprobs))
    reasoned = load_plugin("tasks", {"kind": "nli", "chain_of_thought": {"student_learns": "answer"}})
    reply = Reply("He moves.\nAnswer: neutral", logprobs=[["48", -0.5, []]])
    answered = Answered(Example("1", chat.messages[:1]), reply, "teacher", None)
    (label,) = _lessons(reasoned, line._replace(said=()), Sifted(answered, None))
    assert label.target == "neutral"
    assert label.told == ""


def test_replies_of_which_none_tells_anything_end_with_a_sentence(tmp_path: Path) -> None:
    job = api_job(tmp_path, "http://127.0.0.1:9")
    folder = made_run(job)
    write_rows(folder.answers / "answers.jsonl", iter([{"id": "0", "text": "x", "logprobs": None}]))
    with pytest.raises(JobFailedError, match="no answer came with log-probabilities of just its text"):
        capture.run(job, folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 2.0}, "cannot be softened"),
        ({"signals": "live"}, "come with replies"),
        ({"signals": "sampled", "losses": ["forward_kl"]}, "draws need a teacher"),
    ],
)
def test_what_replies_cannot_give_is_refused_when_the_job_is_read(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=said):
        api_job(tmp_path, "http://127.0.0.1:9", **settings)


def test_a_teacher_that_tells_its_log_probabilities_is_learned_from_by_default(tmp_path: Path) -> None:
    job = api_job(tmp_path, "http://127.0.0.1:9", losses=[])
    assert [loss.kind for loss in job.train.losses] == ["cross_entropy", "forward_kl"]
    with pytest.raises(JobError, match="or set the top_logprobs of every teacher"):
        Job(
            folder=tmp_path,
            name="x",
            task="qa",
            data="train.jsonl",
            student=str(tmp_path / "student"),
            train={"losses": ["forward_kl"]},
            teacher={"kind": "openai_api", "base_url": "http://127.0.0.1:9/v1", "model": "big"},
        )


def learned_alone(folder: Path, name: str) -> RunFolder:
    """The student's training by itself, as processes that learn together run it; what it reads of the run is there already."""
    job = job_of(folder, "large bytes", "metaspace", name, batch_size=5)
    run, pupil = RunFolder(job.run_path), pupil_of(job)
    lessons = list(read_lessons(folder / "runs" / "one" / "answers" / "kept.jsonl"))
    rows = pupil.encode(lessons).rows
    signals = aligned_signals(job, RunFolder(folder / "scratch" / str(os.getpid())), pupil, lessons, rows)
    train_loop(Training("student", job.student, job.train, job.train.losses, rows, [], run, run.model, signals))
    return run


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    made_run(job_of(tmp_path, "large bytes", "metaspace", "one"))
    one = learned_alone(tmp_path, "one")
    code = "from pathlib import Path; from test_crossing import learned_alone\nlearned_alone(Path(sys.argv[1]), 'two')"
    in_two_processes(tmp_path, code, tmp_path)
    assert largest_gap(one, RunFolder(tmp_path / "runs" / "two")) < 5e-5
