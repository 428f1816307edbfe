"""How likely a teacher on this machine finds each label of a closed set: scored once, kept on the disk by content.

    <folder>/labels-<identity>/scores.jsonl   {"asked", "logp", "crc"} a line

The score of a label is the sum of its tokens' log-probabilities behind the prompt, its end of turn among them, so that "card"
has no share of what "card_arrival" is given. Normalised over the labels, the scores of one prompt are the teacher's distribution:
log p(label | prompt, it is one of the labels). Teacher and student may have different tokenizers. A prompt is computed once: its
labels go on from copies of its cache. Temperature is no part of what is kept.

Names of tensors carry their shape: B prompts, P positions of the longest, L labels, T tokens of the longest label, N targets,
H hidden size, W words.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import Row, make_batches
from .contracts import Task, Teacher
from .errors import JobError, ModelError
from .kernels.cells import CHUNK_BYTES, Head, logits
from .kernels.mixtures import confident_shares, gold_shares
from .labels import LabelLogp, asked_key, softened
from .progress import Progress
from .recipe import WIDTH_WORTH_BF16, uses_bf16
from .rendering import answer_ids, load_tokenizer, prompt_ids
from .runfolder import fingerprint, read_rows, write_json
from .student import best_device, causal_model, head_of, hidden_states, load_model
from .types import Example, Message

ROWS_AT_ONCE = 64
"""Prompts scored between two syncs to the disk."""
LABELS_AT_ONCE = 16
"""Labels of about the same length that go on from a prompt together: the 77 of banking77 have 5 to 26 tokens, and padded to one
length would take twice the work."""
CACHED_POSITIONS = 16384
"""Positions of keys and values that may be held at a time, of all copies of all prompts: 2 GB in an 8B model."""


class LabelStore:
    """One teacher's scores of one set of labels. Killed at any moment, it keeps every whole line; several processes may add."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], num_labels: int) -> None:
        self.folder = folder / f"labels-{fingerprint(identity)[:16]}"
        self.num_labels = num_labels
        self.path = self.folder / "scores.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "identity.json", dict(identity))
        with self._alone():
            self._cut_torn_line()
            self.scores = {row["asked"]: self._checked(row) for row in self._rows()}

    def add(self, scores: Mapping[str, LabelLogp]) -> None:
        """Appends rows, synced before they count."""
        lines = [{"asked": asked, "logp": [float(one) for one in logp], "crc": _crc(logp)} for asked, logp in scores.items()]
        with self._alone(), self.path.open("ab") as file:
            self._cut_torn_line()
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        self.scores.update(scores)

    def _rows(self) -> Iterator[dict[str, Any]]:
        try:
            yield from read_rows(self.path)
        except ValueError:
            raise self._damaged() from None

    def _checked(self, row: Mapping[str, Any]) -> LabelLogp:
        logp = np.array(row.get("logp", ()), dtype=np.float32)
        if len(logp) != self.num_labels or _crc(logp) != row.get("crc"):
            raise self._damaged()
        return logp

    def _damaged(self) -> ModelError:
        return ModelError(f"the label scores in {self.folder} are damaged; delete that folder and run again")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _cut_torn_line(self) -> None:
        """Cuts a last line that a killed process left half written."""
        if not self.path.is_file() or self.path.stat().st_size == 0:
            return
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) == b"\n":
                return
        os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)


def _crc(logp: LabelLogp) -> int:
    return zlib.crc32(logp.astype(np.float32).tobytes())


@dataclass(frozen=True)
class LabelTeachers:
    """Teachers on this machine that score a task's labels together; `folder` keeps what they found."""

    teachers: Sequence[Teacher]
    task: Task
    folder: Path
    token_budget: int
    precision: str = "auto"

    def store(self, teacher: Teacher) -> LabelStore:
        """One teacher's scores; its identity covers weights, labels and precision."""
        device = best_device()
        bf16 = uses_bf16(self.precision, device, WIDTH_WORTH_BF16)
        precision = f"{device}, {'bf16 where it pays' if bf16 else 'fp32'}"
        labels = self.task.labels_asked()
        identity = {"teacher": dict(teacher.identity()), "labels": list(labels), "precision": precision}
        return LabelStore(self.folder, identity, len(labels))

    def capture(self, examples: Sequence[Example], bar: Progress) -> Captured:
        """Scores the rows that are not in the stores yet. A prompt that a teacher cannot be asked is counted, not scored."""
        asked = {asked_key(self.task, example): example for example in examples}
        scored = refused = 0
        for teacher in self.teachers:
            store = self.store(teacher)
            missing = {key: example for key, example in asked.items() if key not in store.scores}
            bar.advance(len(asked) - len(missing))
            if missing:
                found = self._score(teacher, missing, store, bar)
                scored, refused = scored + found.scored, refused + found.refused
        return Captured(scored, refused)

    def softened(self, temperature: float, mix_by: str = "weight", gold: Mapping[str, int] | None = None) -> dict[str, LabelLogp]:
        """By what was asked: log sum_t w_t p_t, each teacher's p softened before, as teachers of text are mixed.

        `mix_by` is `train.mix_by`; `gold` has the number of the gold label of what was asked, where there is one.
        """
        total = math.fsum(teacher.weight for teacher in self.teachers)
        prior_T = torch.tensor([one.weight / total for one in self.teachers], dtype=torch.float64)
        parts = [self.store(one).scores for one in self.teachers]
        found = {}
        for key in set.intersection(*(set(scores) for scores in parts)):
            logp_TL = np.stack([scores[key] for scores in parts])
            share_T = _label_shares(prior_T, torch.from_numpy(logp_TL).double(), mix_by, (gold or {}).get(key)).numpy()
            soft_TL = [softened(logp, temperature) + np.log(share) for logp, share in zip(logp_TL, share_T, strict=True)]
            found[key] = np.logaddexp.reduce(soft_TL).astype(np.float32)
        return found

    def likeliest(self, examples: Sequence[Example], temperature: float) -> float | None:
        """How likely the likeliest label of these rows is on average: what is to be thought of when a temperature is chosen."""
        scored = self.softened(temperature)
        found = [float(np.exp(scored[key].max())) for one in examples if (key := asked_key(self.task, one)) in scored]
        return round(sum(found) / len(found), 4) if found else None

    def _score(self, teacher: Teacher, missing: Mapping[str, Example], store: LabelStore, bar: Progress) -> Captured:
        place = teacher.local_model()
        if place is None:
            raise JobError(f"the teacher {teacher.label} has no weights on this machine, so it cannot score labels here")
        tokenizer = load_tokenizer(place, **teacher.loading())
        scorer = LabelScorer(load_model(place, **teacher.loading()), tokenizer, self.task.labels_asked(), self.precision)
        prompts: dict[str, list[int]] = {}
        for key, example in missing.items():
            try:
                ids = prompt_ids(tokenizer, self.task.prompt(example))
            except ModelError:
                continue
            if len(ids) + scorer.longest_label <= scorer.context:
                prompts[key] = ids
        bar.advance(len(missing) - len(prompts))
        order = sorted(prompts, key=lambda key: -len(prompts[key]))
        for start in range(0, len(order), ROWS_AT_ONCE):
            part = order[start : start + ROWS_AT_ONCE]
            logp = scorer.scores([prompts[key] for key in part], self.token_budget)
            store.add({key: softened(row, 1.0) for key, row in zip(part, logp, strict=True)})
            bar.advance(len(part))
        return Captured(len(prompts), len(missing) - len(prompts))


class Captured(NamedTuple):
    """How many prompts were scored now, and how many a teacher cannot be asked (too long, refused by its template)."""

    scored: int
    refused: int


class LabelScorer:
    """A causal language model that says how likely it would answer a prompt with each label."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], precision: str) -> None:
        self.model = model
        self.head = head_of(model, int(max(tokenizer.get_vocab().values())) + 1)
        self.pad_id = int(tokenizer.pad_token_id)
        self.labels = [answer_ids(tokenizer, [Message("user", "hello")], label) for label in labels]
        self.longest_label = max(len(ids) for ids in self.labels)
        config = model.config.get_text_config()
        self.context = int(getattr(config, "max_position_embeddings", None) or 2**31)
        self.bf16 = uses_bf16(precision, model.device.type, config.hidden_size)
        self.goes_on = self._goes_on_from_a_cache()

    def scores(self, prompts: Sequence[list[int]], token_budget: int) -> list[npt.NDArray[np.float64]]:
        """Each prompt's sums of log-probabilities [L], not normalised."""
        if not self.goes_on:
            return self.scores_whole(prompts, token_budget)
        found: list[npt.NDArray[np.float64]] = [np.zeros(0)] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        while order:
            room = len(prompts[order[0]]) + self.longest_label
            size = max(1, min(token_budget // room, CACHED_POSITIONS // (room * min(LABELS_AT_ONCE, len(self.labels)))))
            batch, order = order[:size], order[size:]
            for number, row in zip(batch, self._scores_of([prompts[number] for number in batch]), strict=True):
                found[number] = row
        return found

    @torch.no_grad()
    def scores_whole(self, prompts: Sequence[list[int]], token_budget: int) -> list[npt.NDArray[np.float64]]:
        """The same, with each label behind its whole prompt: for architectures that cannot go on from a cache."""
        pairs = [(np.array(p, dtype=np.int32), np.array(label, dtype=np.int32)) for p in prompts for label in self.labels]
        rows = [Row(prompt, label) for prompt, label in pairs]
        sums = np.zeros(len(rows))
        for batch in make_batches(rows, range(len(rows)), token_budget=token_budget, packing=False, pad_id=self.pad_id):
            moved = batch.to(self.model.device)
            with self._autocast():
                hidden_BTH = hidden_states(self.model, moved.input_ids_BT, moved.position_ids_BT)
            logp_N = target_logp(hidden_BTH.flatten(0, 1).index_select(0, moved.at_N), self.head, moved.target_N)
            parts = logp_N.cpu().split([len(rows[number].answer) for number in batch.numbers])
            for number, part in zip(batch.numbers, parts, strict=True):
                sums[number] = float(part.double().sum())
        return list(sums.reshape(len(prompts), len(self.labels)))

    @torch.no_grad()
    def _scores_of(self, prompts: Sequence[list[int]]) -> npt.NDArray[np.float64]:
        """Sums [B, L]: the prompts once, padded on the left, and then every label behind a copy of its prompt's cache."""
        device, longest = self.model.device, max(len(prompt) for prompt in prompts)
        ids_BP = torch.tensor([[self.pad_id] * (longest - len(p)) + p for p in prompts], device=device)
        mask_BP = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
        out = self._forward(ids_BP, mask_BP, (mask_BP.cumsum(1) - 1).clamp_min(0), None)
        lengths_B = mask_BP.sum(1)
        size = min(LABELS_AT_ONCE, max(1, CACHED_POSITIONS // (len(prompts) * (longest + self.longest_label))))
        found = np.zeros((len(prompts), len(self.labels)))
        order = sorted(range(len(self.labels)), key=lambda number: len(self.labels[number]))
        for start in range(0, len(order), size):
            columns = order[start : start + size]
            some = [self.labels[number] for number in columns]
            rows_R = torch.arange(len(prompts), device=device).repeat_interleave(len(some))
            cache = copy.deepcopy(out.past_key_values)
            cache.batch_select_indices(rows_R)
            last_RH = out.last_hidden_state[rows_R, -1]
            found[:, columns] = self._behind(last_RH, mask_BP[rows_R], lengths_B[rows_R], cache, some)
        return found

    def _behind(
        self, last_RH: torch.Tensor, mask_RP: torch.Tensor, lengths_R: torch.Tensor, cache: Any, labels: Sequence[list[int]]
    ) -> npt.NDArray[np.float64]:
        """Sums [B, len(labels)] of R = B * len(labels) lines: the prompt's last state tells the first token, and so on."""
        device, num_lines = last_RH.device, len(last_RH)
        longest = max(len(label) for label in labels)
        padded = [[*label, *[self.pad_id] * (longest - len(label))] for label in labels]
        ids_RT = torch.tensor(padded, device=device).repeat(num_lines // len(labels), 1)
        real_RT = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in labels], device=device)
        real_RT = real_RT.repeat(num_lines // len(labels), 1)
        mask = torch.cat([mask_RP, real_RT[:, :-1]], dim=1)
        positions_RT = lengths_R[:, None] + torch.arange(longest - 1, device=device)
        out = self._forward(ids_RT[:, :-1], mask, positions_RT, cache)
        hidden_RTH = torch.cat([last_RH[:, None], out.last_hidden_state], dim=1)
        at_N = real_RT.flatten().nonzero().flatten()
        logp_N = target_logp(hidden_RTH.flatten(0, 1)[at_N], self.head, ids_RT.flatten()[at_N])
        sums_R = torch.zeros(num_lines, dtype=torch.float64, device=device).index_add(0, at_N // longest, logp_N.double())
        return sums_R.cpu().numpy().reshape(-1, len(labels))

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> Any:
        with self._autocast():
            return causal_model(self.model).base_model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )

    def _autocast(self) -> Any:
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _goes_on_from_a_cache(self) -> bool:
        """Whether labels behind copies of a cache score as behind their whole prompts: tried, as recurrent states, masks of
        their own and odd caches would each fail in another way."""
        prompts = [self.labels[0][:1] * 3, self.labels[0][:1]]
        before, self.bf16 = self.bf16, False
        try:
            one, other = self._scores_of(prompts), np.stack(self.scores_whole(prompts, 4096))
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
            return False
        finally:
            self.bf16 = before
        return bool(np.abs(one - other).max() <= 1e-3 * np.abs(other).max())


def _label_shares(prior_T: torch.Tensor, logp_TL: torch.Tensor, mix_by: str, gold: int | None) -> torch.Tensor:
    """The teachers' shares [T] of one row."""
    if mix_by == "confidence":
        return confident_shares(prior_T, torch.special.entr(logp_TL.exp()).sum(dim=1, keepdim=True))[:, 0]
    if mix_by == "gold" and gold is not None:
        return gold_shares(prior_T, logp_TL[:, gold : gold + 1])[:, 0]
    return prior_T


def target_logp(hidden_NH: torch.Tensor, head: Head, target_N: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [N] of the targets among the head's real words, in fp32, chunk by chunk."""
    words_WH = head.weight_VH[: head.num_words].to(hidden_NH.dtype)
    bias_W = None if head.bias_V is None else head.bias_V[: head.num_words].float()
    found = []
    size = max(1, CHUNK_BYTES // (4 * head.num_words))
    for h_nH, target_n in zip(hidden_NH.split(size), target_N.split(size), strict=True):
        z_nW = logits(h_nH, words_WH, bias_W, head, torch.float32)
        found.append(z_nW.gather(1, target_n[:, None])[:, 0] - z_nW.logsumexp(dim=1))
    return torch.cat(found)
