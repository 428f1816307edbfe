"""invent: new prompts after the user's examples, where there are few.

    data/train.jsonl -> data/invented.jsonl, data/invented_rejected.jsonl, and "invented" in data/card.json

The replies are looked at in the order of their requests, however they arrive, and a request rests on what was kept up to its
round: so the journal's replies give the same file again, and more prompts than last time pay for what is new alone.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..answers.asking import Asking, Inquiry, ask, once
from ..answers.invention import (
    Form,
    InventSettings,
    Seeds,
    Shape,
    Turns,
    Wish,
    pool_of,
    question,
    read_prompts,
    room_for,
    shape_of,
    turns_of,
    wish_of,
)
from ..answers.novelty import Novelty
from ..contracts import Teacher
from ..data.rows import content_id, prompt_key
from ..desk import desk_of, note_spending
from ..errors import DataError, JobFailedError
from ..job import Job
from ..journal import Journal, Payer
from ..progress import Progress
from ..runfolder import Json, RunFolder, read_json, read_rows, write_json, write_rows
from ..types import Example, Message, Reply, Request

PURPOSE = "invent"
FILE, REJECTED = "invented.jsonl", "invented_rejected.jsonl"
HELD_OUT, TRAIN, INVENTED = range(3)
ROUND = 64
"""Requests that rest on the same earlier inventions, and may be under way together."""
DRY_WINDOW, DRY_SHARE = 16, 0.1
"""It is no use to go on when fewer of the last prompts than this share are new."""
MAX_VARIANTS = 3
"""How many kept prompts may differ from one another in numbers, negation and signs alone."""
SPARE = 4


def inputs(job: Job) -> Any:
    settings = job.data.invent
    if not settings.num_prompts:
        return None
    teacher = job.teacher
    return {**settings.model_dump(mode="json"), "teacher": dict(teacher.identity()), "sampling": str(teacher.sampling(1))}


def run(job: Job, folder: RunFolder) -> None:
    """Raises DataError where nothing says what to invent, and JobFailedError when not one new prompt came of it."""
    settings = job.data.invent
    if not settings.num_prompts:
        _forget(folder)
        return
    inventing = Inventing(settings, job.teachers_for(folder)[0], folder)
    with Journal(job.journal_path) as journal, Progress(folder, PURPOSE, settings.num_prompts) as bar:
        desk = desk_of(job, folder, journal)
        payer = Payer(desk.run, PURPOSE, inventing.teacher.label)

        def use(asked: tuple[Request, Reply]) -> None:
            inventing.take(*asked)
            bar.advance(len(inventing.kept) - bar.done)

        try:
            asking = Asking(inventing.teacher, inventing.inquiries(), use, payer, inventing.may_start)
            ask([asking], journal, desk.purse)
        finally:
            note_spending(folder, desk)
    card = inventing.card()
    write_rows(folder.data / REJECTED, inventing.rejected)
    write_rows(folder.data / FILE, (example.as_dict() for example in inventing.kept))
    write_json(folder.data / "card.json", {**read_json(folder.data / "card.json"), "invented": card})
    folder.event("invented", **{name: card[name] for name in ("wanted", "kept", "requests", "stopped")})
    if len(inventing.kept) < settings.num_prompts:
        folder.event("note", message=_said(card))
    if not inventing.kept:
        raise JobFailedError(f"{_said(card)}; look at {folder.data / REJECTED}, mend data.invent, or set num_prompts to 0")


def _forget(folder: RunFolder) -> None:
    """Takes away what an earlier start of the job invented."""
    for name in (FILE, REJECTED):
        (folder.data / name).unlink(missing_ok=True)
    card = read_json(folder.data / "card.json")
    if card.pop("invented", None) is not None:
        write_json(folder.data / "card.json", card)


def _said(card: Json) -> str:
    fates = ", ".join(f"{number:,} {fate.replace('_', ' ')}" for fate, number in card["rejected"].items() if number)
    why = {"dry": "hardly any of the last ones was new", "max_requests": f"data.invent allows {card['requests']:,} requests"}
    return (
        f"{card['kept']:,} of {card['wanted']:,} new prompts were invented, as {why[card['stopped']]}; "
        f"of {card['read']:,} prompts read: {fates or 'none refused'}; {card['failed']:,} of {card['requests']:,} requests failed"
    )


class Inventing:
    """The inventions so far: what is asked next, and what of the replies is kept."""

    def __init__(self, settings: InventSettings, teacher: Teacher, folder: RunFolder) -> None:
        self.settings = settings
        self.teacher = teacher
        self.seeds = Seeds(pool_of(_examples(folder, "train")))
        if not self.seeds.pool and settings.description is None:
            raise DataError("data.invent has no train rows to take as examples; say in data.invent.description what to invent")
        self.seen = Novelty(settings.max_overlap)
        self.seen.learn_form([turns_of(example) for example in self.seeds.pool])
        for kind, split in ((HELD_OUT, "test"), (HELD_OUT, "validation"), (TRAIN, "train")):
            for example in _examples(folder, split):
                self.seen.add(turns_of(example), kind)
        sampling = teacher.sampling(room_for(self.seeds.pool, settings))
        self.sampling = replace(sampling, temperature=settings.temperature, stop=(), top_logprobs=0)
        needed = math.ceil(settings.num_prompts / settings.prompts_per_request)
        self.max_requests = settings.max_requests or SPARE * needed + DRY_WINDOW
        self.kept: list[Example] = []
        self.rejected: list[Json] = []
        self.stopped: str | None = None
        self.counts: Counter[str] = Counter()
        self.cells: dict[str, dict[str, Counter[str]]] = {"topics": {}, "difficulties": {}}
        self._shown: dict[int, list[Example]] = {}
        self._waiting: dict[int, Reply] = {}
        self._taken = self._allowed = 0
        self._recent: deque[int] = deque(maxlen=DRY_WINDOW)
        self._known: dict[Shape, int] = {}
        self._forms: dict[int, Form] = {}

    def inquiries(self) -> Iterator[Inquiry[tuple[Request, Reply]]]:
        """The requests one after another, each made when it may be asked."""
        number = 0
        while self.stopped is None:
            yield once(self._request(number))
            number += 1

    def may_start(self) -> float:
        """How many requests may be under way or done: what is still needed, within the round."""
        if self.stopped is not None:
            return math.inf
        share = max(DRY_SHARE, len(self.kept) / max(1, self.counts["read"])) if self._taken else 1.0
        needed = (self.settings.num_prompts - len(self.kept)) / (self.settings.prompts_per_request * share)
        end_of_round = (self._taken // ROUND + 1) * ROUND
        self._allowed = max(self._allowed, min(self._taken + math.ceil(needed), end_of_round, self.max_requests))
        return self._allowed

    def take(self, request: Request, reply: Reply) -> None:
        """Takes a reply, in any order; it counts when all before it have come."""
        self._waiting[int(request.example_id.rpartition(":")[2])] = reply
        while self.stopped is None and self._taken in self._waiting:
            self._use(self._taken, self._waiting.pop(self._taken))
            self._taken += 1
            self.stopped = self._why_stop()
            if self._taken % ROUND == 0:
                self._known = {shape: len(own) for shape, own in self.seeds.own.items()}

    def card(self) -> Json:
        """The counts of the data card: read = kept + rejected."""
        names = ("wrong_form", "in_test_or_validation", "like_a_train_row", "like_an_invented_one", "not_needed")
        return {
            "wanted": self.settings.num_prompts,
            "kept": len(self.kept),
            **{name: self.counts[name] for name in ("requests", "failed", "unreadable", "read")},
            "rejected": {name: self.counts[name] for name in names},
            "stopped": self.stopped,
            "teacher": self.teacher.label,
            **{name: {cell: dict(counts) for cell, counts in cells.items()} for name, cells in self.cells.items()},
        }

    def _request(self, number: int) -> Request:
        settings = self.settings
        shown = self.seeds.draw(number, settings.seeds_per_request, self._known)
        self._shown[number] = shown
        # Other examples make another request; where all are shown each time, only another sample does.
        sample = 0 if len(self.seeds.pool) > settings.seeds_per_request > 0 else number
        messages = question(shown, wish_of(number, settings), settings)
        return Request(f"{PURPOSE}:{number}", messages, self.sampling, sample)

    def _use(self, number: int, reply: Reply) -> None:
        self.counts["requests"] += 1
        before, shown = len(self.kept), self._shown.pop(number)
        wish = wish_of(number, self.settings)
        if reply.error is not None:
            self.counts["failed"] += 1
        else:
            prompts = read_prompts(reply.text, cut=reply.finish_reason == "length")
            self.counts["unreadable"] += not prompts
            for place, turns in enumerate(prompts):
                self._judge(self._example(turns, shown, wish, f"{PURPOSE}:{number}.{place}"), self._form(shown))
        self._recent.append(len(self.kept) - before)
        for name, cell in (("topics", wish.topic), ("difficulties", wish.difficulty)):
            if cell is not None:
                counts = self.cells[name].setdefault(cell, Counter(requests=0, kept=0))
                counts.update(requests=1, kept=len(self.kept) - before)

    def _example(self, turns: Turns, shown: list[Example], wish: Wish, source: str) -> Example:
        system = shape_of(shown[0]).system if shown else self.settings.system_prompt
        spoken = [Message("assistant" if place % 2 else "user", text) for place, text in enumerate(turns)]
        messages = ((Message("system", system),) if system is not None else ()) + tuple(spoken)
        meta = {"invented": True, "topic": wish.topic, "difficulty": wish.difficulty, "seeds": [seed.id for seed in shown]}
        return Example(f"{PURPOSE}-{content_id(prompt_key(messages), '')}", messages, None, meta, source)

    def _judge(self, example: Example, form: Form) -> None:
        """Keeps a prompt that is new and has the form of the examples."""
        self.counts["read"] += 1
        fate = self._fate(turns_of(example), form)
        if fate is None:
            self.kept.append(example)
            self.seen.add(turns_of(example), INVENTED)
            self.seeds.own.setdefault(shape_of(example), []).append(example)
            return
        self.counts[fate] += 1
        self.rejected.append(
            {"source": example.source, "reason": fate.replace("_", " "), "messages": example.as_dict()["messages"]}
        )

    def _fate(self, turns: Turns, form: Form) -> str | None:
        if len(self.kept) >= self.settings.num_prompts:
            return "not_needed"
        if not form.fits(turns):
            return "wrong_form"
        like = self.seen.find(turns)
        if any(one.kind == HELD_OUT for one in like):
            return "in_test_or_validation"
        if any(one.kind == TRAIN and one.is_same for one in like):
            return "like_a_train_row"
        if any(one.is_same for one in like) or len(like) >= MAX_VARIANTS:
            return "like_an_invented_one"
        return None

    def _form(self, shown: list[Example]) -> Form:
        num_turns = shape_of(shown[0]).num_turns if shown else 1
        if num_turns not in self._forms:
            self._forms[num_turns] = Form.of(self.seeds.pool, num_turns)
        return self._forms[num_turns]

    def _why_stop(self) -> str | None:
        if len(self.kept) >= self.settings.num_prompts:
            return "enough"
        asked = self.settings.prompts_per_request * len(self._recent)
        if len(self._recent) == DRY_WINDOW and sum(self._recent) < DRY_SHARE * asked:
            return "dry"
        return "max_requests" if self._taken >= self.max_requests else None


def _examples(folder: RunFolder, split: str) -> Iterator[Example]:
    return map(Example.from_dict, read_rows(folder.data / f"{split}.jsonl"))
