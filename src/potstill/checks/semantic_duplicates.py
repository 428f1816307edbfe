"""Refuses rows that ask in other words what an earlier row asks."""

from __future__ import annotations

import json
import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file
from typing_extensions import override

from ..contracts import Answered, Check, Finding, Room, Task, Teacher, Watch
from ..data.rows import normalised
from ..errors import ModelError
from ..student import best_device
from ..text.shingles import outline, sentences, spoken

Vectors = NDArray[np.float32]

PAIRS_SHOWN = 5
BATCH = 64
BLOCK_ROWS = 16_384
MOST_COMPARED = 4
COMMON_SHARE, COMMON_LEAST = 0.2, 10
LONGEST = 512
FAULTS = (OSError, ValueError, KeyError, SafetensorError, RuntimeError)


class SemanticDuplicates(Check):
    """Refuses a row whose prompt means what an earlier prompt means, by an encoder of sentences; its answer must agree.

    Numbers, signs and negations must be equal, and what the two do not share word for word is compared by itself, so a long
    text that both ask about does not make two questions one. With all-MiniLM-L6-v2, 71 of 3,000 prompts of Banking77 and
    CLINC150 are refused at 0.95, 70 of them for one with the same label. The vectors lie in a file; time per row grows with
    the rows before it: for a million of 384 dimensions, comparing takes about as long as encoding.
    """

    model: str = Field(
        description="an encoder such as sentence-transformers/all-MiniLM-L6-v2: folder from the job file's, or hub id"
    )
    alike: float = Field(default=0.95, gt=0, le=1, description="least cosine of two prompts that mean the same")
    compare: Literal["both", "prompt"] = Field(default="both", description="whether the answers must agree too")
    pooling: Literal["mean", "first"] | None = Field(
        default=None,
        description="how token vectors become one: their mean, or the first; default: as the model's files say, else mean",
    )
    prefix: str = Field(default="", description="put before every text, for encoders that were trained so ('query: ')")

    @field_validator("model")
    @classmethod
    def _from_the_jobs_folder(cls, value: str, info: ValidationInfo) -> str:
        place = Path((info.context or {}).get("folder") or Path.cwd()) / Path(value).expanduser()
        return str(place.resolve()) if place.is_dir() or value.startswith((".", "/", "~")) else value

    @override
    def problems(self, teachers: Sequence[Teacher], task: Task) -> list[str]:
        try:
            AutoTokenizer.from_pretrained(self.model)
        except FAULTS as error:
            return [_unusable(self.model, error)]
        return []

    @override
    def watch(self, room: Room) -> Watch:
        return _Watch(self, room)


class _Row(NamedTuple):
    """What is compared of a row."""

    name: str
    sentences: tuple[str, ...]
    answer: str | None
    identity: int


class _Watch(Watch):
    """The rows so far: vectors and texts in a nameless file each, 16 bytes a row in memory."""

    check: SemanticDuplicates

    def __init__(self, check: SemanticDuplicates, room: Room) -> None:
        super().__init__(check, room)
        self.encoder: _Encoder | None = None
        self.common: frozenset[str] = frozenset()
        self.kept = _Rows(room.data)
        self.pairs: list[list[str]] = []

    @override
    def look(self, answers: Sequence[Answered]) -> list[Finding | Answered | None]:
        if not answers:
            return []
        rows = [self._row(one) for one in answers]
        if self.encoder is None:
            self.encoder = _Encoder(self.check)
            counts = Counter(sentence for row in rows for sentence in set(row.sentences))
            self.common = frozenset(s for s, n in counts.items() if n > max(COMMON_LEAST, COMMON_SHARE * len(rows)))
        vectors = self.encoder.vectors([self._own(row) for row in rows])
        near = self.kept.nearest(vectors, rows, self.check.alike)
        return [self._look(row, vector, found) for row, vector, found in zip(rows, vectors, near, strict=True)]

    def _look(self, row: _Row, vector: Vectors, near: list[tuple[float, int]]) -> Finding | None:
        near += self.kept.nearest_unwritten(vector, row, self.check.alike)
        for _, number in sorted(near, reverse=True)[:MOST_COMPARED]:
            other = self.kept.row(number)
            if self._same(row, other):
                self.pairs += [[row.name, other.name]] if len(self.pairs) < PAIRS_SHOWN else []
                return Finding("means the same as an earlier row")
        self.kept.add(row, vector)
        return None

    def _row(self, one: Answered) -> _Row:
        system, turns = spoken(one.example.messages)
        answer = one.example.gold if one.reply is None else one.reply.text
        said = tuple(sentence for turn in turns for sentence in sentences(turn))
        identity = outline(turns, f"{len(turns)} {normalised(system)}").identity
        return _Row(one.example.id, said, None if self.check.compare == "prompt" else answer, identity)

    def _own(self, row: _Row) -> str:
        """A row's text without the instruction that many rows share."""
        return " ".join([s for s in row.sentences if s not in self.common] or row.sentences)

    def _same(self, one: _Row, other: _Row) -> bool:
        """Whether what two rows do not share word for word means the same, and their answers too."""
        shared = Counter(one.sentences) & Counter(other.sentences)
        mine, theirs = _without(one.sentences, shared), _without(other.sentences, shared)
        if bool(mine) != bool(theirs):
            return False
        texts = [(mine, theirs)] if mine else []
        if one.answer is not None and other.answer is not None:
            first, second = normalised(one.answer), normalised(other.answer)
            if first != second:
                if outline([first]).identity != outline([second]).identity:
                    return False
                texts.append((first, second))
        elif one.answer != other.answer:
            return False
        assert self.encoder is not None
        return all(self.encoder.cosine(first, second) >= self.check.alike for first, second in texts)

    @override
    def report(self) -> dict[str, Any]:
        return {"pairs": self.pairs} if self.pairs else {}


def _without(said: Sequence[str], shared: Counter[str]) -> str:
    left = Counter(shared)
    own = []
    for sentence in said:
        if left[sentence]:
            left[sentence] -= 1
        else:
            own.append(sentence)
    return " ".join(own)


class _Encoder:
    """A model that makes one vector of length 1 of a text."""

    def __init__(self, check: SemanticDuplicates) -> None:
        self.prefix, self.device = check.prefix, best_device()
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # a head that is not used here may be missing
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(check.model)
            model: Any = AutoModel.from_pretrained(check.model, use_safetensors=True, dtype=torch.float32)
            pooled = _settings(check.model, "1_Pooling/config.json").get("pooling_mode_cls_token")
            longest = _settings(check.model, "sentence_bert_config.json").get("max_seq_length") or LONGEST
        except FAULTS as error:
            raise ModelError(_unusable(check.model, error)) from None
        finally:
            transformers_logging.set_verbosity(verbosity)
        self.model = nn.Module.to(model, self.device).eval()
        self.takes_first = check.pooling == "first" if check.pooling else bool(pooled)
        self.longest = min(longest, self.tokenizer.model_max_length, LONGEST)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """One vector a text; what is too long is cut."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        parts = [self._encode([texts[at] for at in order[start : start + BATCH]])[0] for start in range(0, len(texts), BATCH)]
        back = np.argsort(np.array(order))
        found: Vectors = np.concatenate(parts)[back]
        return found

    def cosine(self, one: str, other: str) -> float:
        """Of two texts; -1 where one is too long to be judged as a whole."""
        (first, second), is_cut = self._encode([one, other])
        return -1.0 if is_cut else float(first @ second)

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> tuple[Vectors, bool]:
        prefixed = [self.prefix + text for text in texts]
        batch = self.tokenizer(prefixed, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        batch = {name: value.to(self.device) for name, value in batch.items()}
        hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(hidden.dtype)
        pooled = hidden[:, 0] if self.takes_first else (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        unit = nn.functional.normalize(pooled.float(), dim=-1)
        return unit.cpu().numpy(), batch["input_ids"].shape[1] >= self.longest


class _Rows:
    """The rows that stay. Vectors are kept in half precision; those of the batch at hand wait in memory."""

    def __init__(self, folder: Path) -> None:
        self.vectors, self.texts = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115
        for file in (self.vectors, self.texts):
            weakref.finalize(self, file.close)
        self.identities, self.starts = array("Q"), array("Q", [0])
        self.num_written = 0
        self.fresh: list[Vectors] = []

    def add(self, row: _Row, vector: Vectors) -> None:
        text = json.dumps(row).encode()
        self.texts.seek(self.starts[-1])
        self.texts.write(text)
        self.starts.append(self.starts[-1] + len(text))
        self.identities.append(row.identity)
        self.fresh.append(vector)

    def row(self, number: int) -> _Row:
        start, end = self.starts[number : number + 2]
        self.texts.seek(start)
        name, said, answer, identity = json.loads(self.texts.read(end - start))
        return _Row(name, tuple(said), answer, identity)

    def nearest(self, vectors: Vectors, rows: Sequence[_Row], alike: float) -> list[list[tuple[float, int]]]:
        """For each row, the earlier ones of its identity whose vectors are near enough."""
        self._write()
        found: list[list[tuple[float, int]]] = [[] for _ in rows]
        identities = np.array([row.identity for row in rows], np.uint64)
        mine = torch.from_numpy(vectors).to(best_device())
        for start, block in self._blocks(vectors.shape[1]):
            cosines = mine @ torch.from_numpy(block).to(mine).T
            for at, number in torch.nonzero(cosines >= alike).tolist():
                if identities[at] == self.identities[start + number]:
                    found[at].append((float(cosines[at, number]), start + number))
        return found

    def nearest_unwritten(self, vector: Vectors, row: _Row, alike: float) -> list[tuple[float, int]]:
        """The same among the rows of the batch at hand."""
        cosines = np.stack(self.fresh) @ vector if self.fresh else np.zeros(0)
        numbers = self.num_written + np.flatnonzero(cosines >= alike)
        return [(float(cosines[n - self.num_written]), int(n)) for n in numbers if self.identities[n] == row.identity]

    def _write(self) -> None:
        if self.fresh:
            self.vectors.seek(0, 2)
            self.vectors.write(np.stack(self.fresh).astype(np.float16).tobytes())
            self.num_written, self.fresh = len(self.identities), []

    def _blocks(self, width: int) -> Iterator[tuple[int, NDArray[np.float16]]]:
        self.vectors.seek(0)
        for start in range(0, self.num_written, BLOCK_ROWS):
            data = self.vectors.read(2 * width * min(BLOCK_ROWS, self.num_written - start))
            yield start, np.frombuffer(bytearray(data), np.float16).reshape(-1, width)


def _settings(model: str, name: str) -> dict[str, Any]:
    """A JSON file beside the model's weights; nothing where there is none."""
    path = cached_file(model, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    return found


def _unusable(model: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"checks/semantic_duplicates: no encoder could be loaded from {model!r}: {reason}"
