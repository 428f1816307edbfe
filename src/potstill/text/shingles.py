"""Texts as numbers that can be compared by the million: words, runs of words, MinHash, and what alike texts may not differ in.

Nothing here depends on Python's hash seed: the same texts give the same numbers on any machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..types import Message
from .texts import UNSPACED, normalised, words

Codes = NDArray[np.uint32]
Hashes = NDArray[np.uint64]

SENTENCE_BREAK, LINE_BREAK, TURN_BREAK = range(3)
"""Codes that are no word's."""
NUM_BANDS, BAND_ROWS = 14, 6
"""84 hash functions: texts of Jaccard 0.82 share a band with probability 0.99, of 0.5 with 0.2, of 0.3 with 0.01."""
_AT_ONCE = 4096

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])\s*")
_SIGN = re.compile(r"[+=<>%^$€£¥₹₽×÷≤≥≠≈√°]|\d\s*[*/](?=\s*\d)|(?<![^\W\d])[-−–](?=\s*[\d(.])")
_UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")
_NEGATION_INSIDE = re.compile("ない|なかった|なく|ません|않|못|없|아니|ไม่")
_NEGATION_WORDS = (
    "not no never none nobody nothing nowhere neither nor without cannot cant dont doesnt didnt isnt arent wasnt werent wont "
    "wouldnt shouldnt couldnt hasnt havent hadnt aint unless except "
    "nicht nichts nie niemals niemand ohne weder kein keine keinen keinem keiner keines außer "
    "ne pas jamais sans aucun aucune rien ni sin nunca ningún ninguna ninguno nada nadie "
    "non mai senza nessun nessuno nessuna niente né não sem nenhum nenhuma ninguém "
    "niet geen nooit niets zonder inte ingen inget aldrig utan ikke aldri uden uten "
    "nigdy bez żaden не нет ни никогда ничего никто без değil yok hiç "
    "لا لم لن ليس ليست بدون नहीं मत बिना không chưa 不 没 沒 無 无 非 未 别 勿 莫 否"
)
_QUANTITY_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion half third quarter "
    "twice double triple dozen first second more less fewer most least before after above below all some any every only "
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf zwanzig hundert tausend halb doppelt mehr weniger "
    "vor nach alle einige jeder nur "
    "deux trois quatre cinq sept huit neuf dix onze douze vingt cent mille moitié plus moins avant après tous toutes "
    "dos tres cuatro cinco seis siete ocho nueve diez once doce veinte cien mil mitad doble más menos antes después todos "
    "due tre quattro sei sette otto nove dieci venti cento metà doppio più meno prima dopo tutti "
    "dois três quatro sete oito dez vinte cem metade mais menos depois twee drie vijf zes zeven negen tien meer minder "
    "один два три четыре пять шесть семь восемь девять десять сто тысяча больше меньше "
    "一 二 三 四 五 六 七 八 九 十 百 千 万 億 亿 两 半 多 少 前 后 後"
)
_NEGATIONS, _QUANTITIES = frozenset(_NEGATION_WORDS.split()), frozenset(_QUANTITY_WORDS.split())


class Spoken(NamedTuple):
    """A prompt's system message, "" where there is none, and what user and assistant say."""

    system: str
    turns: list[str]


class Outline(NamedTuple):
    """A text as numbers: a code for each word, with breaks between sentences, lines and turns, and the identity.

    The identity stands for all in which two texts that say the same must agree, in their order: numbers, signs, words of
    quantity, and negations with the word behind each. `is_spaced` tells whether spaces part the words of the script.
    """

    codes: Codes
    identity: int
    is_spaced: bool = True


class Shingles(NamedTuple):
    """The single words and the pairs of neighbours of a text, and the sentence each stands in, -1 where it spans two.

    A line's beginning and end are neighbours too: what is asked often stands there ("... travelling to Oslo").
    """

    hashes: Hashes
    sentence: NDArray[np.int64]


class Runs(NamedTuple):
    """A hash for each run of words in a text, and the number of its first word."""

    hashes: Hashes
    starts: NDArray[np.int64]


def spoken(messages: Sequence[Message]) -> Spoken:
    """The system message apart: many rows share one, and it is no sign that they are alike."""
    system = next((message.content for message in messages if message.role == "system"), "")
    return Spoken(system, [message.content for message in messages if message.role != "system"])


def outline(turns: Sequence[str], apart: str = "") -> Outline:
    """The outline of some turns of talk; `apart` counts for the identity alone.

    >>> tom = outline(["Tom has 3 pens."]).identity
    >>> tom == outline(["So, Tom has 3 pens!"]).identity, tom == outline(["Tom has 5 pens."]).identity
    (True, False)
    """
    codes, marks = [TURN_BREAK], [apart]
    for turn in turns:
        for line in turn.splitlines():
            for sentence in _SENTENCE_END.split(line):
                said = words(sentence)
                codes += [max(crc32(word.encode()), TURN_BREAK + 1) for word in said]
                codes.append(SENTENCE_BREAK)
                marks += _marks(said, sentence)
            codes[-1] = LINE_BREAK
        codes.append(TURN_BREAK)
    digest = hashlib.blake2b("\0".join(marks).encode(), digest_size=8).digest()
    text = "" if all(turn.isascii() for turn in turns) else "".join(turns)
    is_spaced = 2 * len(_UNSPACED_LETTER.findall(text)) <= len(text)
    return Outline(np.array(codes, np.uint32), int.from_bytes(digest), is_spaced)


def _marks(said: Sequence[str], sentence: str) -> list[str]:
    """What of a sentence belongs to the identity: "don't go" and "do not go" are one, "go" is another."""
    marks: list[str] = []
    for index, word in enumerate(said):
        if word in _NEGATIONS or (word == "t" and index and said[index - 1].endswith("n")):
            marks.append("not " + "".join(said[index + 1 : index + 2]))
        elif word in _QUANTITIES or (not word.isalpha() and any(letter.isnumeric() for letter in word)):
            marks.append(word)
    if sentence.isascii():
        return [*marks, *_SIGN.findall(sentence)]
    folded = normalised(sentence)
    return [*marks, *_SIGN.findall(folded), *_NEGATION_INSIDE.findall(folded)]


def sentences(turn: str) -> list[str]:
    """The sentences of a turn, normalised, blank ones left out.

    >>> sentences("Hi there! How are  you?\\nBye")
    ['hi there!', 'how are you?', 'bye']
    """
    found = (normalised(sentence) for line in turn.splitlines() for sentence in _SENTENCE_END.split(line))
    return [sentence for sentence in found if sentence]


def shingles(codes: Codes) -> Shingles:
    """Words and pairs, with repeats: pairs tell "A asks B" from "B asks A"; no pair spans two lines."""
    kept = codes != SENTENCE_BREAK
    code = codes[kept]
    is_word = code > TURN_BREAK
    sentence = np.cumsum(codes <= TURN_BREAK)[kept]
    code = np.where(is_word, code, LINE_BREAK).astype(np.uint64)
    left, right = is_word[:-1], is_word[1:]
    place = np.where(left, sentence[:-1], sentence[1:])
    place[left & right & (sentence[:-1] != sentence[1:])] = -1
    pairs = _mixed(code[:-1] * _STEP + code[1:])[left | right]
    return Shingles(np.concatenate([_mixed(code[is_word]), pairs]), np.concatenate([sentence[is_word], place[left | right]]))


def runs(codes: Codes, length: int) -> Runs:
    """Every run of `length` words within one turn, across its sentences and lines; in order, with repeats.

    >>> text, other = outline(["a b c d e"]).codes, outline(["x b c d y"]).codes
    >>> set(runs(text, 3).hashes.tolist()) & set(runs(other, 3).hashes.tolist()) == {runs(text, 3).hashes.tolist()[1]}
    True
    """
    is_word = codes > TURN_BREAK
    word = codes[is_word].astype(np.uint64)
    turn = np.cumsum(codes == TURN_BREAK)[is_word]
    count = max(len(word) - length + 1, 0)
    total = np.zeros(count, np.uint64)
    for offset in range(length if count else 0):
        total = total * _STEP + word[offset : offset + count]
    starts = np.flatnonzero(turn[:count] == turn[length - 1 :])
    return Runs(_mixed(total[starts]), starts)


def band_keys(hashes: Hashes, identity: int) -> Codes:
    """One key for each band of the MinHash of a set; none for no hashes.

    Two sets of different identity share keys by accident alone.
    """
    if not len(hashes):
        return np.zeros(0, np.uint32)
    lowest = np.full(len(_FACTORS), np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(hashes), _AT_ONCE):
        part = _FACTORS[:, None] * hashes[start : start + _AT_ONCE]
        part += _SHIFTS[:, None]
        lowest = np.minimum(lowest, part.min(axis=1))
    bands = (lowest >> _HALF).reshape(NUM_BANDS, BAND_ROWS)
    key = _BAND_SEEDS ^ np.uint64(identity)
    for row in range(BAND_ROWS):
        key = _mixed(key * _STEP + bands[:, row])
    return (key >> _HALF).astype(np.uint32)


def _mixed(value: Hashes) -> Hashes:
    """The last steps of splitmix64: every bit of the input changes about half of the output's."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


_HALF = np.uint64(32)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_SEEDS = _mixed(np.arange(1, 2 * NUM_BANDS * BAND_ROWS + NUM_BANDS + 1, dtype=np.uint64) * _STEP)
_BAND_SEEDS, _SHIFTS, _FACTORS = np.split(_SEEDS, [NUM_BANDS, NUM_BANDS + NUM_BANDS * BAND_ROWS])
_FACTORS = _FACTORS | np.uint64(1)
