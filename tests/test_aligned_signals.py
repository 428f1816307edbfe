"""What a teacher of other tokens says, as cells of the student's words: against whole distributions, and against equal tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from other_tokens import KINDS, save_other, tokenizer_of

from potstill.aligned_signals import AlignedSignals, Said, Voice
from potstill.aligned_terms import Aligned, term_of
from potstill.alignment import groups_of
from potstill.batches import Batch, Row, Sample, encode, make_batches
from potstill.codec import WordSets
from potstill.kernels.cells import Cells, Full, Head, cell_losses
from potstill.plugins import load_plugin
from potstill.progress import Progress
from potstill.reply_logprobs import ReplyLogprobs
from potstill.runfolder import RunFolder, fingerprint
from potstill.signals import levels_of, logp_of
from potstill.spelling import Spelled, Spelling, word_map
from potstill.student import load_model
from potstill.teacher_signals import SignalShape, StoredSignals, capture, open_store
from potstill.types import Message

KL = load_plugin("losses", "forward_kl")
ULD = load_plugin("losses", "universal_logit")
ANSWERS = ["The router light is red.", "Größe über Köln 🙂", "日本", "", "Yes", "12,345 €\n\nDone."]
SPELLINGS = {kind: Spelling(tokenizer_of(kind)) for kind in KINDS}
SHAPE = SignalShape(top_k=8, temperature=1.5, token_budget=256, targets=True)


def encoded(kind: str, answers: list[str] = ANSWERS) -> list[Row]:
    samples = [Sample([Message("user", f"Say {n}.")], text, name=fingerprint(text)) for n, text in enumerate(answers)]
    rows = encode(samples, tokenizer_of(kind), 512).rows
    assert len(rows) == len(answers)
    return rows


def said_by(kind: str, rows: list[Row], answers: list[str]) -> dict[str, Said]:
    found = {}
    for row, text in zip(rows, answers, strict=True):
        spelled = SPELLINGS[kind].spelled(row.answer, text)
        assert spelled is not None
        found[row.name] = Said(text, row.digest(), row.answer.astype(np.int64), spelled)
    return found


def captured(kind: str, folder: Path, shape: SignalShape = SHAPE, answers: list[str] = ANSWERS) -> tuple[Voice, dict[str, Said]]:
    """The signals of a random teacher with these tokens, kept on the disk."""
    teacher = load_plugin("teachers", {"kind": "huggingface", "model": str(save_other(folder / kind, kind, seed=4))})
    rows = encoded(kind, answers)
    store = open_store(teacher, tokenizer_of(kind), folder / "signals", shape)
    with Progress(RunFolder(folder / "run"), "capture", len(rows)) as bar:
        assert capture(teacher, tokenizer_of(kind), rows, store, shape, bar) == len(rows)
        assert capture(teacher, tokenizer_of(kind), rows, store, shape, bar) == 0
    own = SPELLINGS[kind]
    return Voice(store, own.keys, own.end, shape.top_k), said_by(kind, rows, answers)


def one_batch(rows: list[Row], packing: bool = True) -> Batch:
    (batch,) = make_batches(rows, range(len(rows)), token_budget=10**6, packing=packing, pad_id=0)
    return batch


def by_place(told: Aligned, rows: list[Row], batch: Batch) -> dict[str, list[dict[int, float]]]:
    """Each row's tokens with their words, whatever the order of rows in the batch."""
    found: dict[str, list[dict[int, float]]] = {}
    start = 0
    for number in batch.numbers:
        end = start + len(rows[number].answer)
        pairs = zip(told.cells.index_NK[start:end].tolist(), told.cells.logp_NK[start:end].tolist(), strict=True)
        found[rows[number].name] = [{w: p for w, p in zip(*pair, strict=True) if w >= 0} for pair in pairs]
        start = end
    return found


def student_like(num_tokens: int, num_words: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, Head]:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(size, 6, dtype=dtype, generator=generator) for size in (num_tokens, num_words))
    return hidden, Head(weight, None, 1.0, None, num_words)


def loss_and_slopes(told: Any, hidden: torch.Tensor, head: Head, loss: Any = KL, temperature: float = 1.5) -> list[torch.Tensor]:
    h, w = hidden.clone().requires_grad_(), head.weight_VH.clone().requires_grad_()
    head = head._replace(weight_VH=w)
    total, _ = cell_losses(h, head, [term_of(loss, told, temperature, None, (h, head))])
    return [total.detach(), *torch.autograd.grad(total, (h, w))]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_tokenizers_give_exactly_what_the_ordinary_path_gives(kind: str, tmp_path: Path) -> None:
    """Value and gradients, with and without a softened distribution; the first token and the end of the turn are among them."""
    voice, said = captured(kind, tmp_path)
    rows = encoded(kind)
    batch = one_batch(rows)
    aligned = AlignedSignals(voice, SPELLINGS[kind], rows, said).cells(batch, rows)
    plain_shape = SignalShape(top_k=8, temperature=1.5, token_budget=256)
    teacher = load_plugin("teachers", {"kind": "huggingface", "model": str(tmp_path / kind)})
    store = open_store(teacher, tokenizer_of(kind), tmp_path / "signals", plain_shape)
    with Progress(RunFolder(tmp_path / "run"), "capture", len(rows)) as bar:
        capture(teacher, tokenizer_of(kind), rows, store, plain_shape, bar)
    ordinary = StoredSignals(store).cells(batch, rows)
    hidden, head = student_like(len(batch.target_N), len(SPELLINGS[kind].keys))
    if 0 not in np.concatenate([one.spelled.ends for one in said.values() if len(one.spelled.ends)]):
        assert bool((aligned.told_N == 1).all())
        assert len(set(aligned.span_N.tolist())) == len(batch.target_N)
        for loss in (KL, ULD):
            for one, other in zip(
                loss_and_slopes(aligned, hidden, head, loss), loss_and_slopes(ordinary, hidden, head, loss), strict=True
            ):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


PAIRS = [("large bytes", "bytes"), ("bytes", "large bytes"), ("llama", "digits"), ("digits", "metaspace"), ("metaspace", "llama")]


@pytest.mark.parametrize(("kind", "own"), PAIRS)
def test_cells_are_those_of_the_teachers_whole_distribution(kind: str, own: str, tmp_path: Path) -> None:
    """Each group's cells, put together from a forward pass over the teacher's own row."""
    voice, said = captured(kind, tmp_path)
    rows, teachers = encoded(own), {row.name: row for row in encoded(kind)}
    signals = AlignedSignals(voice, SPELLINGS[own], rows, said)
    assert signals.num_untold == 0
    batch = one_batch(rows)
    told = signals.cells(batch, rows)
    found = by_place(told, rows, batch)
    model = load_model(str(tmp_path / kind), dtype=torch.float64)
    covered = 0
    for row in rows:
        teacher = teachers[row.name]
        ids = torch.from_numpy(np.concatenate([teacher.prompt, teacher.answer]).astype(np.int64))[None]
        with torch.no_grad():
            logp = (model(ids).logits[0, len(teacher.prompt) - 1 : -1] / 1.5).log_softmax(-1)
        mine = SPELLINGS[own].spelled(row.answer, said[row.name].text)
        assert mine is not None
        groups = groups_of(said[row.name].spelled, mine)
        edges = [*groups.teacher_G.tolist(), len(teacher.answer)], [*groups.student_G.tolist(), len(row.answer)]
        prefixes = (said[row.name].spelled.has_prefix, mine.has_prefix)
        for number in range(len(groups.teacher_G)):
            theirs, ours = (range(side[number], side[number + 1]) for side in edges)
            cells = found[row.name][ours[0]]
            covered += len(ours)
            if len(theirs) == len(ours) == 1:
                words = word_map(
                    SPELLINGS[kind].keys, SPELLINGS[own], SPELLINGS[kind].end, prefixes if number == 0 else (False, False)
                )
                words[teacher.answer[theirs[0]]] = row.answer[ours[0]]
                wanted: dict[int, float] = {}
                for word in logp[theirs[0]].topk(8).indices.tolist():
                    if words[word] >= 0:
                        before = wanted.get(int(words[word]), -math.inf)
                        wanted[int(words[word])] = float(np.logaddexp(before, float(logp[theirs[0], word])))
                assert cells == pytest.approx(wanted, rel=1e-3, abs=1e-3)
            else:
                exact = sum(float(logp[place, teacher.answer[place]]) for place in theirs)
                assert list(cells) == [row.answer[ours[0]]]
                assert cells[int(row.answer[ours[0]])] == pytest.approx(exact, rel=1e-3, abs=1e-3)
                for place in ours[1:]:
                    assert list(found[row.name][place]) == [row.answer[place]]
    assert covered == len(batch.target_N), "every token of the student is in a group"
    assert bool((told.told_N == 1).all())


@pytest.mark.parametrize(("kind", "own"), [PAIRS[0], PAIRS[2], PAIRS[3]])
def test_gradcheck_over_real_groups(kind: str, own: str, tmp_path: Path) -> None:
    voice, said = captured(kind, tmp_path, answers=ANSWERS[1:3])
    rows = encoded(own, ANSWERS[1:3])
    told = AlignedSignals(voice, SPELLINGS[own], rows, said).cells(one_batch(rows), rows)
    assert len(set(told.span_N.tolist())) < len(told.span_N), "some groups have several tokens"
    hidden, head = student_like(len(told.span_N), len(SPELLINGS[own].keys))
    hidden, weight = 0.3 * hidden[:, :2], 0.3 * head.weight_VH[:, :2]
    for loss in (KL, load_plugin("losses", "reverse_kl"), ULD):

        def total(h: torch.Tensor, w: torch.Tensor, loss: Any = loss) -> torch.Tensor:
            own_head = head._replace(weight_VH=w)
            return cell_losses(h, own_head, [term_of(loss, told, 1.0, None, (h, own_head))])[0]

        assert torch.autograd.gradcheck(total, (hidden.requires_grad_(), weight.requires_grad_()), fast_mode=True)


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from("aé 🙂日e.rt\n1")), min_size=1, max_size=4, unique=True),
    pair=st.sampled_from(PAIRS),
    seed=st.integers(0, 99),
)
def test_any_text_gives_probabilities_in_any_order_and_packing(texts: list[str], pair: tuple[str, str], seed: int) -> None:
    """With a source that draws each token's words at random: at most 1 in all, and the same sum however rows stand together."""
    kind, own = pair
    teachers, rows = encoded(kind, texts), encoded(own, texts)
    said = said_by(kind, teachers, texts)
    tokens = {one.name: one.tokens_T for one in said.values()}
    voice = Voice(Random(tokens, len(SPELLINGS[kind].keys), seed), SPELLINGS[kind].keys, SPELLINGS[kind].end, 5)
    signals = AlignedSignals(voice, SPELLINGS[own], rows, said)
    losses = []
    for order, packing in ((list(range(len(rows))), True), (list(range(len(rows)))[::-1], False)):
        some = [rows[number] for number in order]
        batch = one_batch(some, packing)
        told = signals.cells(batch, some)
        assert float(told.cells.logp_NK.exp().sum(1).max()) <= 1 + 1e-4
        real = [[word for word in words if word >= 0] for words in told.cells.index_NK.tolist()]
        assert all(len(set(words)) == len(words) for words in real)
        hidden, head = student_like(600, len(SPELLINGS[own].keys))
        places = torch.cat([torch.arange(len(some[n].answer)) + 50 * order[n] for n in batch.numbers])
        losses.append(float(loss_and_slopes(told, hidden[places % 600], head)[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9, abs=1e-9)


class Random:
    """A source whose tokens have five random words and their own."""

    def __init__(self, tokens: dict[str, np.ndarray], num_words: int, seed: int) -> None:
        self.tokens, self.num_words, self.seed = tokens, num_words, seed

    def read(self, rows: Any) -> WordSets:
        sizes, words, logps = [], [], []
        for row in rows:
            chance = np.random.default_rng([self.seed, int(row[:8], 16)])
            for token in self.tokens[row]:
                others = chance.choice(self.num_words, 5, replace=False)
                some = sorted({int(token), *others.tolist()})
                sizes.append(len(some))
                words += some
                logps += np.log(chance.dirichlet(np.ones(len(some) + 1))[:-1]).tolist()
        return WordSets(np.array(sizes), np.array(words), levels_of(np.array(logps)))


def test_replies_say_it_in_bytes_and_nothing_of_the_end(tmp_path: Path) -> None:
    """Computed by hand: a token that is the student's, one of two, and two that are one."""
    tokenizer, spelling = tokenizer_of("large bytes"), SPELLINGS["large bytes"]
    words = tokenizer.get_vocab()
    text = "The light"
    assert [tokenizer.convert_ids_to_tokens(int(word)) for word in encoded("large bytes", [text])[0].answer] == [
        "The",
        "Ġlight",
        "<|eot|>",
    ]
    half, tenth = math.log(0.5), math.log(0.1)
    replies = [
        {"logprobs": [[b"The".hex(), half, [[b"The".hex(), half], [b" The".hex(), tenth], [b"nosuchword".hex(), tenth]]],
                      [b" li".hex(), half, [[b" li".hex(), half]]], [b"ght".hex(), tenth, []]]},
        {"logprobs": None},
        {"logprobs": [[b"x".hex(), half, []]]},
    ]  # fmt: skip
    name = fingerprint(replies[0]["logprobs"])
    source = ReplyLogprobs(replies, {name})
    keys = source.keys
    assert [keys[word] for word in source.tokens[name]] == [b"The", b" li", b"ght"]
    rows = encoded("large bytes", [text, "Yes"])
    said = {rows[0].name: Said(text, name, np.array(source.tokens[name]), Spelled(np.array([3, 6, 9]), has_prefix=False))}
    signals = AlignedSignals(Voice(source, keys), spelling, rows, said)
    assert signals.num_untold == 1
    batch = one_batch(rows)
    told = signals.cells(batch, rows)
    found = by_place(told, rows, batch)
    first, second, end = found[rows[0].name]
    assert first == pytest.approx({words["The"]: half, words["ĠThe"]: tenth}, rel=1e-3)
    assert second == pytest.approx({words["Ġlight"]: half + tenth}, rel=1e-3)
    assert end == {}
    assert all(not cells for cells in found[rows[1].name])
    counted = dict.fromkeys(row.name for row in rows)
    start = 0
    for number in batch.numbers:
        size = len(rows[number].answer)
        counted[rows[number].name] = told.told_N[start : start + size].tolist()
        start += size
    assert counted[rows[0].name] == [1, 1, 0], "a reply does not say how likely its end was"
    assert set(counted[rows[1].name]) == {0}
    hidden, head = student_like(len(told.told_N), len(spelling.keys))
    nothing = told._replace(told_N=torch.zeros_like(told.told_N))
    for loss in (KL, ULD):
        assert all(float(one.abs().max()) == 0.0 for one in loss_and_slopes(nothing, hidden, head, loss))


def test_the_sorted_distributions_are_compared_at_the_first_token_of_each_group() -> None:
    """By hand: the student gives 1/2, 1/4, 1/4; the teacher 0.7 and 0.2; the rest 0.1."""
    hidden = torch.tensor([[0.5, 0.25, 0.25]] * 3, dtype=torch.float64).log()
    head = Head(torch.eye(3, dtype=torch.float64), None, 1.0, None, 3)
    ranks = torch.tensor([[0.7, 0.2], [0.9, 0.05], [0.5, 0.5]], dtype=torch.float64).log()
    nothing = Cells(torch.full((3, 1), -1), torch.full((3, 1), -math.inf))
    told = Aligned(nothing, torch.tensor([0, 0, 1]), torch.tensor([1.0, 1.0, 0.0]), ranks)
    by_hand = abs(0.7 - 0.5) + abs(0.2 - 0.25) + abs(0.1 - 0.25)
    assert float(loss_and_slopes(told, hidden, head, ULD, 1.0)[0]) == pytest.approx(by_hand)
    full = Full(torch.tensor([[0.7, 0.2, 0.1]] * 3, dtype=torch.float64).log().roll(1, 1), head)
    assert float(loss_and_slopes(full, hidden, head, ULD, 1.0)[0]) == pytest.approx(3 * by_hand), "whatever the words are"
    cells = Cells(torch.tensor([[2, 0]] * 3), torch.tensor([[0.2, 0.7]] * 3, dtype=torch.float64).log())
    assert float(loss_and_slopes(cells, hidden, head, ULD, 1.0)[0]) == pytest.approx(3 * by_hand)


def test_what_is_kept_holds_each_tokens_own_word(tmp_path: Path) -> None:
    voice, said = captured("bytes", tmp_path)
    for one in said.values():
        sets = voice.source.read([one.name])
        words = np.split(sets.words_U, np.cumsum(sets.sizes_N)[:-1])
        assert all(token in some for token, some in zip(one.tokens_T, words, strict=True))
        assert set(sets.sizes_N.tolist()) <= {8, 9}
        assert float(np.exp(logp_of(sets.numbers_U)).max()) <= 1.0
