"""The starter pack: a small teacher, a smaller student base and a generated corpus, so that a first run needs no hub.

Nothing in this package imports torch, so the command line can list and copy the pack at once.
"""

from pathlib import Path

from potstill.starter.corpus import TASKS, rows

__all__ = ["STUDENT", "TASKS", "TEACHER", "model_path", "models_dir", "rows"]

TEACHER = "starter-teacher"
STUDENT = "starter-student"


def models_dir() -> Path:
    """The folder that holds both models."""
    return Path(__file__).parent / "models"


def model_path(name: str) -> Path:
    """The folder of a model of the pack, loadable with `AutoModelForCausalLM.from_pretrained`."""
    if name not in (TEACHER, STUDENT):
        raise ValueError(f"unknown starter model {name!r}; the models are {TEACHER} and {STUDENT}")
    return models_dir() / name
