"""invent against a real server: new prompts alone are kept, the same file again costs nothing, and it says why it stops."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from potstill.answers.budget import BudgetError
from potstill.errors import DataError, JobFailedError
from potstill.job import Job
from potstill.runfolder import RunFolder, read_json, read_rows, write_json
from potstill.stages import generate, invent, prepare, validate
from potstill.text.overlap import rouge_l

WORDS = [
    first + second for first in ("bar", "lum", "tor", "ves", "nik", "sol", "wem", "gra") for second in ("o", "ika", "ent", "ul")
]
SYSTEM = "You are a clerk. Answer in one word."
HELD_OUT = "Which drawer holds the blue forms of last winter?"
TRAINED = "Who signs the letters when the boss is away?"


def sentence(chance: random.Random) -> str:
    return f"Why does {' '.join(chance.choices(WORDS, k=8))}?"


def fresh(asked: str) -> list[str]:
    """As many new prompts as asked for, other ones for each request."""
    chance = random.Random(hashlib.sha256(asked.encode()).hexdigest())
    return [sentence(chance) for _ in range(int(re.findall(r"Write (\d+) new", asked)[0]))]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., tuple[Job, RunFolder]]:
    """A prepared run with 30 train rows, whose teacher is the server."""
    (tmp_path / "student").mkdir()
    chance = random.Random(1)

    def write(name: str, prompts: list[str], **more: Any) -> None:
        rows = [{"prompt": prompt, "system": SYSTEM, **more} for prompt in prompts]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("train.jsonl", [TRAINED, *(sentence(chance) for _ in range(29))])
    write("test.jsonl", [HELD_OUT, "Is the gate open?"], completion="yes")
    write("validation.jsonl", ["Is the door shut?"], completion="no")

    def made(server: ChatServer, budget: dict[str, Any] | None = None, **settings: Any) -> tuple[Job, RunFolder]:
        teacher = {"kind": "openai_api", "model": "big", "base_url": server.url, "api_key": None, "top_p": 0.8, "stop": ["]"]}
        files = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
        data = {**files, "invent": {"num_prompts": 40, "prompts_per_request": 8, **settings}}
        fields = {"task": "qa", "teacher": teacher, "student": "./student", "data": data, "budget": budget or {}}
        job = Job(folder=tmp_path, name="run", **fields)
        folder = RunFolder(job.run_path)
        if not (folder.data / "train.jsonl").is_file():
            prepare.run(job, folder)
        return job, folder

    return made


def invented(folder: RunFolder) -> list[dict[str, Any]]:
    return list(read_rows(folder.data / "invented.jsonl"))


def prompts_of(folder: RunFolder) -> list[str]:
    return [row["messages"][-1]["content"] for row in invented(folder)]


def test_new_prompts_keep_the_system_prompt_and_say_where_they_come_from(start: Any) -> None:
    with ChatServer(answer=lambda asked: json.dumps(fresh(asked))) as server:
        job, folder = start(server, topics=["sea", "sky"], difficulties="hard")
        before = {path.name: path.read_bytes() for path in folder.data.glob("*.jsonl")}
        invent.run(job, folder)
    rows = invented(folder)
    assert len(rows) == len({row["id"] for row in rows}) == 40
    assert all(row["messages"][0] == {"role": "system", "content": SYSTEM} and len(row["messages"]) == 2 for row in rows)
    assert all(row["gold"] is None and row["meta"]["invented"] and row["meta"]["difficulty"] == "hard" for row in rows)
    train = {row["id"] for row in read_rows(folder.data / "train.jsonl")}
    assert all(len(row["meta"]["seeds"]) == 8 and set(row["meta"]["seeds"]) <= train for row in rows)
    prompts = prompts_of(folder)
    assert max(rouge_l(one, [other]) for number, one in enumerate(prompts) for other in prompts[:number]) < 0.7
    assert {name: (folder.data / name).read_bytes() for name in before} == before
    card = read_json(folder.data / "card.json")["invented"]
    assert (card["wanted"], card["kept"], card["stopped"], card["failed"]) == (40, 40, "enough", 0)
    assert card["read"] == card["kept"] + sum(card["rejected"].values())
    assert {topic: counts["requests"] for topic, counts in card["topics"].items()} == {"sea": 3, "sky": 2}
    assert sum(counts["kept"] for counts in card["topics"].values()) == card["difficulties"]["hard"]["kept"] == 40
    body = server.bodies[0]
    assert (body["temperature"], body["top_p"], body.get("stop")) == (0.9, 0.8, None)


def test_new_prompts_are_answered_like_any_other(start: Any) -> None:
    with ChatServer(answer=lambda asked: json.dumps(fresh(asked)) if "Write" in asked else "Because.") as server:
        job, folder = start(server, num_prompts=10)
        for stage in (invent, generate, validate):
            stage.run(job, folder)
    kept = {row["id"]: row for row in read_rows(folder.answers / "kept.jsonl")}
    assert len(kept) == 40
    for row in invented(folder):
        assert (kept[row["id"]]["target"], kept[row["id"]]["messages"]) == ("Because.", row["messages"])


def test_copies_of_train_test_and_earlier_inventions_are_refused_with_the_reason(start: Any) -> None:
    def answer(asked: str) -> str:
        new = fresh(asked)
        parts = [
            "",
            "x" * 5000,
            HELD_OUT.upper(),
            f"So {TRAINED}",
            "Is the gate open!",
            new[0],
            new[0].replace("does", "does the"),
            *new[1:4],
        ]
        return "```json\n" + json.dumps([part for part in parts if part]) + "\n```"

    with ChatServer(answer=answer) as server:
        job, folder = start(server, num_prompts=12)
        invent.run(job, folder)
    card = read_json(folder.data / "card.json")["invented"]
    assert card["kept"] == 12
    num = card["requests"]
    assert card["rejected"] == {
        "wrong_form": num,
        "in_test_or_validation": 2 * num,
        "like_a_train_row": num,
        "like_an_invented_one": num,
        "not_needed": 0,
    }
    reasons = {row["reason"]: row["messages"][-1]["content"] for row in read_rows(folder.data / "invented_rejected.jsonl")}
    assert reasons["like a train row"] == f"So {TRAINED}"
    assert not {HELD_OUT, TRAINED} & set(prompts_of(folder))


def test_the_same_again_is_the_same_file_and_costs_nothing_and_more_pays_for_the_rest_alone(start: Any) -> None:
    with ChatServer(answer=lambda asked: json.dumps(fresh(asked))) as server:
        job, folder = start(server, num_prompts=150, prompts_per_request=2)
        invent.run(job, folder)
        asked, first = server.asked.total(), (folder.data / "invented.jsonl").read_bytes()
        assert asked >= 75
        assert [count for count in server.asked.values() if count > 1] == []
        shown = [set(row["meta"]["seeds"]) for row in invented(folder)]
        assert any(name.startswith("invent-") for name in shown[-1])
        assert not any(name.startswith("invent-") for name in shown[0])
        (folder.data / "invented.jsonl").unlink()
        invent.run(job, folder)
        assert (folder.data / "invented.jsonl").read_bytes() == first
        assert server.asked.total() == asked
        job, folder = start(server, num_prompts=160, prompts_per_request=2)
        invent.run(job, folder)
        assert (folder.data / "invented.jsonl").read_bytes().startswith(first)
        assert len(invented(folder)) == 160
        assert asked < server.asked.total() <= asked + 10


def test_prompts_that_differ_in_numbers_alone_are_kept_up_to_a_few(start: Any) -> None:
    def answer(asked: str) -> str:
        chance = random.Random(asked)
        return json.dumps([f"How many of {chance.randint(2, 10**6)} lamps are lit in the house on the hill?" for _ in range(8)])

    with ChatServer(answer=answer) as server:
        job, folder = start(server)
        invent.run(job, folder)
    assert len(invented(folder)) == 3


def test_it_stops_and_says_so_when_hardly_anything_is_new(start: Any) -> None:
    with ChatServer(answer=lambda asked: "1. Why does the lamp blink at night?\n2. Where do the keys hang?") as server:
        job, folder = start(server)
        invent.run(job, folder)
    assert prompts_of(folder) == ["Why does the lamp blink at night?", "Where do the keys hang?"]
    card = read_json(folder.data / "card.json")["invented"]
    assert (card["stopped"], card["requests"]) == ("dry", 16)
    said = [event["message"] for event in read_rows(folder.path / "events.jsonl") if event["event"] == "note"]
    assert said[0].startswith("2 of 40 new prompts were invented, as hardly any of the last ones was new; of 32 prompts read: 30")


def test_no_new_prompt_at_all_fails_the_job_and_names_what_was_refused(start: Any) -> None:
    with ChatServer(answer=lambda asked: f"I cannot. {TRAINED}") as server:
        job, folder = start(server, max_requests=3)
        with pytest.raises(
            JobFailedError, match=r"0 of 40 new prompts were invented, as data.invent allows 3 requests; of 0 prompts read"
        ):
            invent.run(job, folder)
    assert read_json(folder.data / "card.json")["invented"]["unreadable"] == 3


def test_the_budget_holds_for_inventions_too(start: Any) -> None:
    with ChatServer(answer=lambda asked: json.dumps(fresh(asked))) as server:
        job, folder = start(server, {"max_requests": 2})
        with pytest.raises(BudgetError):
            invent.run(job, folder)
        assert server.asked.total() == 2
        job, folder = start(server, {"max_requests": 50})
        invent.run(job, folder)
        assert [count for count in server.asked.values() if count > 1] == []
    assert len(invented(folder)) == 40
    assert folder.state()["spend"]["requests"] == server.asked.total()


def test_a_cut_list_gives_what_is_whole(start: Any) -> None:
    class Cuts(dict[str, list[str]]):
        def get(self, question: object, default: Any = None) -> Any:
            return ["always cut"]

    with ChatServer(faults=Cuts(), answer=lambda asked: json.dumps(fresh(asked))[:-9]) as server:
        job, folder = start(server, num_prompts=20)
        invent.run(job, folder)
    card = read_json(folder.data / "card.json")["invented"]
    assert (card["kept"], card["read"]) == (20, 7 * card["requests"])


def test_chats_are_invented_in_the_shape_of_the_examples(start: Any, tmp_path: Path) -> None:
    chance = random.Random(5)
    chats = [[("user", sentence(chance)), ("assistant", sentence(chance)), ("user", sentence(chance))] for _ in range(6)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in chat]} for chat in chats]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(asked: str) -> str:
        assert "each a JSON list of 3 strings" in asked
        new = fresh(asked)
        return json.dumps([new[:3], new[3:6], new[:2], new[6]])

    with ChatServer(answer=answer) as server:
        job, folder = start(server, num_prompts=6)
        invent.run(job, folder)
    assert all([message["role"] for message in row["messages"]] == ["user", "assistant", "user"] for row in invented(folder))
    card = read_json(folder.data / "card.json")["invented"]
    assert (card["kept"], card["rejected"]["wrong_form"], card["rejected"]["not_needed"]) == (6, 4, 2)


def test_without_examples_a_description_is_enough_and_its_system_prompt_is_kept(start: Any) -> None:
    with ChatServer(answer=lambda asked: json.dumps(fresh(asked + str(server.asked.total())))) as server:
        job, folder = start(server, description="Questions to a clerk.", system_prompt="Be brief.", difficulties=())
        (folder.data / "train.jsonl").write_text("")
        invent.run(job, folder)
        assert server.asked.total() >= 5
        job, _ = start(server)
        with pytest.raises(DataError, match=r"say in data.invent.description what to invent"):
            invent.run(job, folder)
    assert {row["messages"][0]["content"] for row in invented(folder)} == {"Be brief."}
    assert len(invented(folder)) == 40
    assert invented(folder)[0]["meta"] == {"invented": True, "topic": None, "difficulty": None, "seeds": []}


def test_switched_off_it_asks_nobody_and_leaves_nothing(start: Any) -> None:
    with ChatServer() as server:
        job, folder = start(server, num_prompts=0)
        assert invent.inputs(job) is None
        (folder.data / "invented.jsonl").write_text("{}\n")
        card = read_json(folder.data / "card.json")
        write_json(folder.data / "card.json", {**card, "invented": {"kept": 1}})
        invent.run(job, folder)
        assert server.asked.total() == 0
        assert read_json(folder.data / "card.json") == card
        assert not (folder.data / "invented.jsonl").exists()
        other, _ = start(server)
        assert invent.inputs(other)["num_prompts"] == 40
