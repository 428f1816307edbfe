"""What is asked about one row: the question, again with more room or another sample where the answer is no use, and in a chat
turn by turn, each with the teacher's own earlier answers before it.

An inquiry is walked by `asking`; it keeps nothing but what its generator holds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from ..contracts import Finding, Task, Teacher
from ..types import Example, Message, Reply, Request, summed

RESAMPLED_AT = 0.7
"""The least temperature of another sample: a greedy teacher would say the same again."""
SAMPLES_APART = 10_000
"""Another try of sample n has the index n + this, so that no later sample of the job ever has its journal key."""

Refuse = Callable[[Example, Reply], Finding | None]


@dataclass(frozen=True, slots=True)
class Persistence:
    """How often a row is asked anew: doubled limits after a cut answer, and other samples after a useless one."""

    longer: int = 2
    resamples: int = 2


@dataclass(frozen=True, slots=True)
class Question:
    """One row for one teacher: the row, which sample of it this is, and what makes an answer useless."""

    example: Example
    sample: int
    task: Task
    teacher: Teacher
    persistence: Persistence
    refuse: Refuse


@dataclass(frozen=True, slots=True)
class Outcome:
    """The last reply, with the attempts, tokens and dollars of all that were needed; `said` are a chat's earlier answers.

    `first` is the reply to the first question as it came, before any other sample was asked.
    """

    example: Example
    sample: int
    reply: Reply
    first: Reply
    said: tuple[str, ...] = ()


def inquire(question: Question, *, every_turn: bool = False) -> Generator[Request, Reply, Outcome]:
    """Asks for the row's answer; with `every_turn`, for each of the assistant's turns that the row has, in order."""
    example, said = question.example, list[str]()
    turns = _turns(example) if every_turn else [len(example.messages)]
    spent: Reply | None = None
    for end in turns:
        asked = _at(example, end, said) if every_turn else example
        first, reply = yield from _patiently(question, asked)
        spent = reply if spent is None else summed(spent, reply)
        if reply.error is not None or end == turns[-1] or question.refuse(asked, reply) is not None:
            break
        said.append(reply.text)
    assert spent is not None
    if len(said) < len(turns) - 1 and spent.error is None:
        spent = replace(spent, error=f"turn {len(said) + 1} of {len(turns)} got no usable answer", text="")
    return Outcome(example, question.sample, spent, first, tuple(said))


def with_answers(messages: tuple[Message, ...], said: Sequence[str]) -> tuple[Message, ...]:
    """The chat with the assistant's turns replaced, in order, by what was said.

    >>> chat = (Message("user", "Hi"), Message("assistant", "gold"), Message("user", "And?"))
    >>> with_answers(chat, ["own"])[1].content
    'own'
    """
    own = iter(said)
    return tuple(Message("assistant", next(own)) if message.role == "assistant" else message for message in messages)


def turns_taught(example: Example, said: Sequence[str], text: str) -> Iterator[tuple[Example, str]]:
    """What a chat that was asked turn by turn teaches: each turn, with the teacher's own earlier answers before it.

    >>> chat = (Message("user", "Hi"), Message("assistant", "gold"), Message("user", "And?"))
    >>> [(len(turn.messages), target) for turn, target in turns_taught(Example("1", chat), ["own"], "last")]
    [(1, 'own'), (3, 'last')]
    """
    if not said:
        yield example, text
        return
    for end, target in zip(_turns(example), (*said, text), strict=True):
        yield _at(example, end, said), target


def _at(example: Example, end: int, said: Sequence[str]) -> Example:
    """The chat up to one of the assistant's turns. Gold and meta are about the last one, so earlier ones are without."""
    messages = with_answers(example.messages[:end], said)
    if end == len(example.messages):
        return replace(example, messages=messages)
    return replace(example, messages=messages, gold=None, meta={})


def _turns(example: Example) -> list[int]:
    """How many messages stand before each of the assistant's turns, the last one that is to come included."""
    return [number + 1 for number, message in enumerate(example.messages) if message.role == "user"]


def _patiently(question: Question, example: Example) -> Generator[Request, Reply, tuple[Reply, Reply]]:
    """The first reply, and the last one with the spending of all."""
    task, teacher = question.task, question.teacher
    sampling = teacher.sampling(task.max_teacher_tokens)
    request = Request(
        example.id, task.teacher_prompt(example), sampling, question.sample, task.answer_schema(), task.labels_asked()
    )
    first = reply = spent = yield request
    longer = resampled = 0
    while True:
        if reply.finish_reason == "length" and longer < question.persistence.longer:
            longer += 1
            sampling = replace(request.sampling, max_tokens=2 * request.sampling.max_tokens)
            request = replace(request, sampling=sampling)
        elif _may_be_better(question, example, reply) and resampled < question.persistence.resamples:
            resampled += 1
            sampling = replace(request.sampling, temperature=max(request.sampling.temperature, RESAMPLED_AT))
            request = replace(request, sampling=sampling, sample_index=question.sample + SAMPLES_APART * resampled)
        else:
            return first, spent
        reply = yield request
        spent = summed(spent, reply)


def _may_be_better(question: Question, example: Example, reply: Reply) -> bool:
    if reply.error is not None or reply.finish_reason == "length":
        return False
    finding = question.refuse(example, reply)
    return finding is not None and finding.again
