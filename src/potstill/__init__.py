"""Potstill distils a large language model into a small one for one task, and proves that the small one is good enough.

    from potstill import MLClient, load_job, run_job

The names below are loaded when they are used, so that `import potstill` needs no torch.
"""

from __future__ import annotations

from typing import Any

from .errors import PotstillError
from .plugins import verb

__version__ = "0.1.0"
__all__ = ["Job", "MLClient", "PotstillError", "RunFolder", "__version__", "load_job", "run_job"]

_PLACES = {
    "Job": "job:Job",
    "MLClient": "client:MLClient",
    "RunFolder": "runfolder:RunFolder",
    "load_job": "job:load_job",
    "run_job": "pipeline:run_job",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return verb(_PLACES[name])
    raise AttributeError(f"module 'potstill' has no attribute {name!r}")
