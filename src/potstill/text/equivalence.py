"""Whether two mathematical answers are equal although they are written differently: 1/\\sqrt{2} and \\sqrt{2}/2.

    with Equivalence() as equivalence:
        equivalence.equal([("\\\\boxed{0.5}", "50%"), ...])      # True, False or None for each pair of (gold, given)

math-verify does the algebra, in processes of their own (math_worker.py) that start when the first pair needs them: it is not
thread-safe, and some expressions hang it. A pair that hangs costs its process, which is replaced, and no other pair.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import selectors
import subprocess
import sys
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

from ..errors import JobFailedError

WORKER = Path(__file__).with_name("math_worker.py")
MAX_LETTERS = 200
"""An expression longer than this is prose, or a trap for the parser."""
REMEMBERED = 4096
START_SECONDS = 120.0
PATIENCE = 20.0
"""How much longer than its processor time a pair may take by the clock: only a process that is stuck takes that long."""

_HASHES = re.compile(r"####\s*(.+)")
_STATED = re.compile(r"\banswer\s*(?:is|:|=)+\s*(.+)", re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_DOLLARS = re.compile(r"\$([^$]+)\$")
_DRESSING = re.compile(r"\\(?:left|right|displaystyle|!|,|;|:|quad)|\{,\}|(?<=\d),(?=\d{3}(?!\d))|\\?[$€£]")
_UNITS = re.compile(r"(?:\\,|\\ |~|\s)*\\(?:text|mathrm|textrm|mbox)\s*\{[^{}]*\}(?:\^\{?[23]\}?)?\s*\Z")
_ASSIGNED = re.compile(r"\A[a-zA-Z]\s*=\s*(?=[^=])")
_RELATION = re.compile(r"[=<>≤≥≠≈]|\\(?:le|ge|leq|geq|lt|gt|ne|neq|approx|equiv|sim|in|to)(?![a-zA-Z])")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_FUNCTIONS = frozenset(("sin", "cos", "tan", "log", "ln", "exp", "pi", "sqrt", "max", "min"))
_MIXED = re.compile(r"\d\s+\d")
_SPACE = re.compile(r"\s+")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)")


def stated(text: str) -> str:
    """What a text gives as its answer: after '####', in \\boxed{}, after "the answer is", in $...$, or its last line.

    >>> stated("So \\\\boxed{\\\\frac{1}{2}} of it."), stated("That is all.\\nThe answer is $2\\\\pi$.")
    ('\\\\frac{1}{2}', '2\\\\pi')
    """
    marked = _HASHES.findall(text)
    if marked:
        return str(marked[-1]).strip()
    boxes = list(_BOXED.finditer(text))
    if boxes:
        return _braced(text, boxes[-1].end())
    said = _STATED.findall(text)
    lines = [line for line in text.splitlines() if line.strip()]
    last = str(said[-1]) if said else lines[-1] if lines else ""
    inline = _DOLLARS.findall(last)
    return (str(inline[-1]) if inline else last).strip().rstrip(".").strip()


def comparable(expression: str) -> str | None:
    """An expression without units, money signs and the "x =" before it; None where it is none that may be compared.

    Equations and inequalities are not: math-verify takes some that differ for equal. Nor are words, which it reads as
    products of letters, nor "3 1/2", which it reads as 3/2.

    >>> comparable("x = 3\\\\text{ cm}"), comparable("50%"), comparable("x + y = 3"), comparable("three")
    ('3', '50\\\\%', None, None)
    """
    if len(expression) > 2 * MAX_LETTERS:
        return None
    plain = _ASSIGNED.sub("", _DRESSING.sub("", _UNITS.sub("", expression)).strip(), count=1).strip().rstrip(".")
    plain = re.sub(r"(?<!\\)%", r"\\%", plain)
    if not plain or len(plain) > MAX_LETTERS or _RELATION.search(plain) or _MIXED.search(plain):
        return None
    words = _WORD.findall(_COMMAND.sub(" ", plain))
    return None if any(word not in _FUNCTIONS for word in words) else plain


@dataclass(slots=True)
class _Worker:
    """A process that compares, and what it has to answer."""

    process: subprocess.Popen[bytes]
    started: float
    pair: tuple[str, str] | None = None
    asked: float = 0.0
    ready: bool = False

    @property
    def end(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def ask(self, pair: tuple[str, str]) -> None:
        self.pair, self.asked = pair, time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: the end of its line says so
            self.process.stdin.write(json.dumps(pair).encode() + b"\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for end in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was written and not read
                end.close() if end else None


class Equivalence:
    """Compares answers in up to `workers` processes; `seconds` of processor time are what one pair may take."""

    def __init__(self, workers: int | None = None, seconds: float = 5.0) -> None:
        self.max_workers = workers or min(4, os.cpu_count() or 1)
        self.seconds = seconds
        self.num_hung = 0
        self._known: OrderedDict[tuple[str, str], bool | None] = OrderedDict()
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._finalizer = weakref.finalize(self, _end, self._workers, self._selector)  # at the interpreter's exit too

    @staticmethod
    def version() -> str | None:
        """The version of math-verify, or None where it is not installed."""
        try:
            return importlib.metadata.version("math-verify")
        except importlib.metadata.PackageNotFoundError:
            return None

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """For each (gold, given), both whole texts: whether the answers that they state are equal; None is unknown."""
        wanted = [_expressions(gold, given) for gold, given in pairs]
        settled = {pair: _at_once(pair) for pair in wanted if pair is not None}
        new = [pair for pair, found in settled.items() if found is None and pair not in self._known]
        settled.update({pair: self._known[pair] for pair in settled if pair in self._known})
        if new:
            settled.update(self._compared(new))
        return [None if pair is None else settled[pair] for pair in wanted]

    def close(self) -> None:
        """Ends every process; the next pair starts new ones."""
        while self._workers:
            self._drop(self._workers[-1])

    def __enter__(self) -> Equivalence:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _compared(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool | None]:
        waiting, found = deque(pairs), dict[tuple[str, str], bool | None]()
        try:
            while len(found) < len(pairs):
                for worker in [worker for worker in self._workers if worker.ready and worker.process.poll() is not None]:
                    if worker.pair is None:  # it died while it had nothing to do
                        self._drop(worker)
                busy = sum(worker.pair is not None for worker in self._workers)
                while len(self._workers) < min(self.max_workers, busy + len(waiting)):
                    self._start()
                for worker in self._workers:
                    if worker.ready and worker.pair is None and waiting:
                        worker.ask(waiting.popleft())
                found.update(self._next_answers())
        except BaseException:  # Ctrl-C: what is under way is of no use to anybody
            self.close()
            raise
        self._known.update(found)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    def _command(self) -> list[str]:
        return [sys.executable, "-P", str(WORKER), str(self.seconds)]  # -P: the package's folder hides modules of Python's own

    def _start(self) -> None:
        pipe = subprocess.PIPE
        process = subprocess.Popen(self._command(), stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        worker = _Worker(process, time.monotonic())
        self._workers.append(worker)
        self._selector.register(worker.end, selectors.EVENT_READ, worker)

    def _next_answers(self) -> dict[tuple[str, str], bool | None]:
        found: dict[tuple[str, str], bool | None] = {}
        for event, _ in self._selector.select(timeout=1.0):
            worker: _Worker = event.data
            said = os.read(worker.end, 1)
            if not said and not worker.ready:
                self._refuse_to_go_on(worker)
            if not said:
                found.update(self._given_up(worker))
            elif not worker.ready:
                worker.ready = True
            elif worker.pair is not None:
                found[worker.pair], worker.pair = {b"1": True, b"0": False}.get(said), None
        for worker in list(self._workers):
            now = time.monotonic()
            if worker.pair is not None and now - worker.asked > self.seconds * PATIENCE:
                found.update(self._given_up(worker))
            elif not worker.ready and now - worker.started > START_SECONDS:
                self._refuse_to_go_on(worker)
        return found

    def _given_up(self, worker: _Worker) -> dict[tuple[str, str], bool | None]:
        """The pair that a worker died of, or hangs on, is unknown."""
        self._drop(worker)
        if worker.pair is None:
            return {}
        self.num_hung += 1
        return {worker.pair: None}

    def _drop(self, worker: _Worker) -> None:
        self._selector.unregister(worker.end)
        self._workers.remove(worker)
        worker.kill()

    def _refuse_to_go_on(self, worker: _Worker) -> NoReturn:
        self._drop(worker)
        said: list[str] = []
        with contextlib.suppress(subprocess.TimeoutExpired):  # once more, to hear why
            again = subprocess.run(self._command(), input=b"", capture_output=True, check=False, timeout=START_SECONDS)
            said = again.stderr.decode("utf-8", "replace").strip().splitlines()
        raise JobFailedError(
            f"math-verify does not start: {said[-1] if said else 'no word from its process'}; "
            "install it anew with: pip install 'potstill[math]', or set math_verify: never on the check against_gold"
        )


def _end(workers: list[_Worker], selector: selectors.BaseSelector) -> None:
    selector.close()
    while workers:
        workers.pop().kill()


def _expressions(gold: str, given: str) -> tuple[str, str] | None:
    known, found = comparable(stated(gold)), comparable(stated(given))
    return None if known is None or found is None else (known, found)


def _at_once(pair: tuple[str, str]) -> bool | None:
    """What needs no algebra: the same letters, and two plain numbers."""
    if _SPACE.sub("", pair[0]) == _SPACE.sub("", pair[1]):
        return True
    if all(_PLAIN_NUMBER.fullmatch(part) for part in pair):
        return Fraction(pair[0]) == Fraction(pair[1])
    return None


def _braced(text: str, start: int) -> str:
    """What stands between the brace before `start` and the one that closes it; all of the rest where none does."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place].strip()
    return text[start:].strip()
