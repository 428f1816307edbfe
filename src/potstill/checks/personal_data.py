"""Finds personal data and secrets in answers, or in prompts: reports, redacts or drops them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from ..contracts import Answered, Check, Finding, Room, Watch
from ..text.personal import KINDS, NAMES, Kind, find, redacted
from ..types import Message


class PersonalData(Check):
    """Finds e-mail addresses, phone, card and account numbers, keys and passwords; reports, redacts or drops them.

    Over answers it looks at the teacher's text; over prompts at the messages, the gold and the row's meta. Redacting puts
    <EMAIL>, <PHONE> and so on in the place of each. It finds what has a form and a check digit, not names or streets; what it
    finds is counted and never shown.
    """

    action: Literal["report", "redact", "drop"] = Field(
        default="report", description="report: count only; redact: replace by `<EMAIL>` and so on; drop: refuse the row"
    )
    kinds: tuple[Kind, ...] = Field(
        default=tuple(kind for kind in KINDS if kind != "ip"), min_length=1, description="what is looked for; ip has to be named"
    )

    @override
    def watch(self, room: Room) -> Watch:
        return _Watch(self, room)


class _Watch(Watch):
    """Counts what it finds, by kind."""

    check: PersonalData

    def __init__(self, check: PersonalData, room: Room) -> None:
        super().__init__(check, room)
        self.found: Counter[str] = Counter()
        self.num_rows = 0

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        return [self._look_at(one) for one in answers]

    def _look_at(self, one: Answered) -> Finding | Answered | None:
        seen: Counter[str] = Counter()
        changed = self._without(one, seen)
        if not seen:
            return None
        self.found.update(seen)
        self.num_rows += 1
        if self.check.action == "drop":
            return Finding("holds " + " and ".join(NAMES[kind] for kind in KINDS if kind in seen))
        return changed if self.check.action == "redact" else None

    def _without(self, one: Answered, seen: Counter[str]) -> Answered:
        """The answer, or the prompt where there is none, redacted; `seen` counts what was found."""
        if one.reply is not None:
            text = self._clean(one.reply.text, seen)
            same = text == one.reply.text  # log-probabilities are of the text as it was
            return one if same else replace(one, reply=replace(one.reply, text=text, logprobs=None))
        example = one.example
        messages = tuple(Message(message.role, self._clean(message.content, seen)) for message in example.messages)
        gold = None if example.gold is None else self._clean(example.gold, seen)
        return replace(one, example=replace(example, messages=messages, gold=gold, meta=self._clean_all(example.meta, seen)))

    def _clean(self, text: str, seen: Counter[str]) -> str:
        found = find(text, self.check.kinds)
        seen.update(one.kind for one in found)
        return redacted(text, found) if found else text

    def _clean_all(self, value: Any, seen: Counter[str]) -> Any:
        """Every text in a row's meta: accepted answers and required values are compared with redacted texts."""
        if isinstance(value, str):
            return self._clean(value, seen)
        if isinstance(value, Mapping):
            return {key: self._clean_all(inner, seen) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean_all(inner, seen) for inner in value]
        return value

    @override
    def report(self) -> dict[str, Any]:
        said: dict[str, Any] = {"rows": self.num_rows, "found": dict(self.found.most_common()), "action": self.check.action}
        if self.found and self.check.action == "report":
            kinds = ", ".join(f"{number:,} {NAMES[kind]}" for kind, number in self.found.most_common())
            said["alarm"] = (
                f"{self.num_rows:,} rows hold personal data or secrets ({kinds}), which a student may learn by heart: "
                "set action: redact or drop on the check personal_data, or take out the kinds that are meant to be there"
            )
        return said
