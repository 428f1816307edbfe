"""What an exporter must offer: files that run elsewhere, and a way to ask them here, so that they can be compared.

Names of arrays carry their shape: T tokens, V words (or labels, of a student that chooses among labels).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .plugins import Plugin

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Runtime(Protocol):
    """A model that is loaded and can be asked."""

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """The scores [T, V] after each of the tokens; [1, labels] of a classifier."""

    def token_ids(self, text: str) -> list[int]:
        """The text's tokens, as they stand in a prompt."""


@dataclass(frozen=True)
class Artefact:
    """One model in exported form: its files, what loads it here, and how it may differ from the student."""

    name: str
    files: tuple[Path, ...]
    runtime: str
    """What it was loaded with, for people."""
    load: Callable[[], Runtime]
    least_agreement: float
    """The share of tokens on which it must choose as the student does: fewer bits may change more."""

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


class Exporter(Plugin):
    """Turns the trained student into files that run somewhere."""

    @abstractmethod
    def problem(self, architecture: str) -> str | None:
        """Why this architecture cannot be exported, said before training; None when it can."""

    @abstractmethod
    def export(self, model_folder: Path, target_folder: Path) -> None:
        """Writes the artefact into `target_folder`; raises ModelError for what is found out only then."""

    def artefacts(self, model_folder: Path, target_folder: Path) -> Sequence[Artefact]:
        """What was written, ready to be loaded and compared with the student; none where nothing here can load it."""
        del model_folder, target_folder
        return ()
