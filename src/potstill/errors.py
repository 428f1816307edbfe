"""Errors that are written for the person who reads them: what was wrong, which value, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


class PotstillError(Exception):
    """A mistake or fault that is told in one sentence, without a traceback; `exit_code` is the command line's."""

    exit_code = EXIT_USER


class JobError(PotstillError):
    """The job file asks for something that is not allowed or cannot work."""


class DataError(PotstillError):
    """The user's files cannot be used."""


class TeacherError(PotstillError):
    """The teacher cannot be asked at all (key, endpoint, model); a single bad reply is never this."""


class ModelError(PotstillError):
    """A model folder, tokenizer or checkpoint cannot be used."""


class MissingPackageError(PotstillError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"the package {package!r} is not installed; install it with: pip install 'potstill[{extra}]'")


class RunBusyError(PotstillError):
    """Another process is using the run folder."""


class JobFailedError(PotstillError):
    """The job was right but could not be finished: too few rows survived, a disk filled up, a teacher went away."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: a guess where one is near, and the known words.

    >>> did_you_mean("learning_rat", ["epochs", "learning_rate"])
    "did you mean 'learning_rate'? Known: epochs, learning_rate"
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}Known: {', '.join(names)}"
