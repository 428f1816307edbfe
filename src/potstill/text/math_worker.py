"""One process that compares mathematical expressions with math-verify; equivalence.py starts it and reads it.

    python -P math_worker.py SECONDS     # a line '["gold", "given"]' in, one byte out: 1 equal, 0 not, ? unknown

An expression such as 9**9**9 hangs sympy or fills the memory. So the process gives itself SECONDS of processor time for a
pair (not of the clock: a busy machine changes no verdict) and a limit of memory, and dies of either: also when whoever
started it was killed and nobody is left to end it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys

from math_verify import LatexExtractionConfig, parse, verify

MEMORY_BYTES = 1 << 30
"""Some fifteen times what math-verify and sympy take at rest."""
READY = b"r"
_LATEX = (LatexExtractionConfig(),)


def equal(gold: str, given: str) -> bool | None:
    """Whether two LaTeX expressions are equal for math-verify; None where one of them cannot be read.

    >>> equal("\\\\frac{\\\\sqrt{2}}{2}", "1/\\\\sqrt{2}"), equal("2", "3"), equal("2", "")
    (True, False, None)
    """
    known, found = (parse(f"${text}$", _LATEX, "no_fallback", parsing_timeout=None) for text in (gold, given))
    return bool(verify(known, found, timeout_seconds=None)) if known and found else None


def main(seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asks, who then closes the line
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    logging.disable()  # math-verify says for each pair that we look after the time ourselves
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever sympy may print is no answer
    os.write(answers, READY)
    for line in sys.stdin.buffer:
        gold, given = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process, in the middle of C code too
        found = equal(gold, given)
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(answers, b"?" if found is None else b"1" if found else b"0")


if __name__ == "__main__":
    main(float(sys.argv[1]))
