"""How fast and how large a model on this machine is, measured in a process of its own so that nothing else is counted.

    echo '{"model": "runs/x/model", "prompts": [[1, 5, 9]], ...}' | python -m potstill.measure

Latency: prompts answered one by one, greedily, after one that warms up. Memory: the peak of the process while it loads
the model and answers those, above what it needed before (imports, tokenizer), plus the accelerator's own peak. Batches
come after: how much memory they take is the choice of who serves, not a property of the model.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .classifier import classify, load_classifier
from .errors import ModelError, PotstillError
from .generation import generate
from .rendering import load_tokenizer
from .student import best_device, count_parameters, load_model
from .types import Sampling

SHIPPED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""What someone who runs the model needs: weights, their index, the configuration and the tokenizer."""
NOT_SHIPPED = {"training_log.json", "trainer_state.json"}
PROC = Path("/proc/self")
Answering = Callable[[Sequence[Sequence[int]]], int]
BUSY = 1.5
"""A load of this many programs a core is more than the measuring process alone makes."""


@dataclass(frozen=True, slots=True)
class MeasureSpec:
    """What to measure: `prompts` are answered one by one, `batch_prompts` together; `labels` make it a classifier."""

    model: str
    prompts: Sequence[Sequence[int]]
    batch_prompts: Sequence[Sequence[int]] = ()
    max_tokens: int = 128
    revision: str | None = None
    trust_remote_code: bool = False
    device: str | None = None
    labels: Sequence[str] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds a prompt, tokens a second at batch 1, rows a second in batches, bytes in memory and on disk."""

    latency_s: list[float]
    tokens_per_s: float | None
    throughput_per_s: float | None
    memory_bytes: int | None
    size_bytes: int | None
    parameters: int
    device: str
    dtype: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Timed(NamedTuple):
    """Seconds of each prompt, and the tokens that were generated for all of them."""

    seconds: list[float]
    tokens: int


def measure(spec: MeasureSpec, timeout_s: float = 3600.0) -> Measurement:
    """Runs the child and reads what it found; raises ModelError "not measured: why" when it dies or says nothing usable."""
    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(asdict(spec)),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"not measured: the measuring process took longer than {timeout_s:,.0f} s") from None
    except OSError as error:
        raise ModelError(f"not measured: the measuring process could not be started: {error}") from None
    if child.returncode != 0:
        raise ModelError(f"not measured: {_why_it_died(child.returncode, child.stderr)}")
    return read_measurement(child.stdout)


def read_measurement(text: str) -> Measurement:
    """The last line of the child's output; libraries may have printed before it."""
    lines = text.strip().splitlines()
    try:
        return Measurement(**json.loads(lines[-1]))
    except (IndexError, TypeError, ValueError):
        shown = lines[-1][:80] if lines else "nothing"
        raise ModelError(f"not measured: the measuring process printed no measurement but {shown!r}") from None


def busy_notes() -> list[str]:
    """What to say beside a measurement when other programs took the processors meanwhile; nothing on a quiet machine."""
    if not hasattr(os, "getloadavg"):
        return []
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= BUSY * cores:
        return []
    return [f"measured while other programs took the processors (load above {BUSY:g} a core), so speed is understated"]


def size_on_disk(model: str) -> int | None:
    """Bytes of weights, configuration and tokenizer in a folder, or in the hub's local cache; None where there are none."""
    folder = Path(model)
    if not folder.is_dir():
        cached = huggingface_hub.try_to_load_from_cache(model, "config.json")
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    files = {file for pattern in SHIPPED for file in folder.glob(pattern) if file.name not in NOT_SHIPPED}
    return sum(file.stat().st_size for file in files) if any(file.suffix == ".safetensors" for file in files) else None


def measure_here(spec: MeasureSpec) -> Measurement:
    """Measures in this process; `measure` is what others call."""
    loading: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    tokenizer = load_tokenizer(spec.model, reads_only=bool(spec.labels), **loading)
    _import_architecture(spec)
    torch.zeros(1, device=spec.device or best_device())  # an accelerator's context is the driver's memory, not the model's
    before = resident_bytes()
    reset_peak()
    if spec.labels:
        model = load_classifier(spec.model, spec.labels, tokenizer, device=spec.device, seed=spec.seed, **loading)
    else:
        model = load_model(spec.model, device=spec.device, **loading)
    answer = _answering(model, tokenizer, spec)
    answer_one_by_one(answer, spec.prompts[:1])
    seconds, tokens = answer_one_by_one(answer, spec.prompts)
    memory = peak_bytes(before, model.device.type)
    rate = rows_per_second(answer, spec.batch_prompts)
    return Measurement(
        latency_s=[round(one, 6) for one in seconds],
        tokens_per_s=tokens / sum(seconds) if sum(seconds) > 0 and tokens > 0 else None,
        throughput_per_s=rate,
        memory_bytes=memory,
        size_bytes=size_on_disk(spec.model),
        parameters=count_parameters(model),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _answering(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, spec: MeasureSpec) -> Answering:
    """Answers prompts together, in texts or labels, and returns how many tokens were written."""
    if spec.labels:
        return lambda prompts: sum(0 for _ in classify(model, prompts))
    options = Sampling(max_tokens=spec.max_tokens)
    return lambda prompts: sum(one.completion_tokens for one in generate(model, tokenizer, [list(p) for p in prompts], options))


def answer_one_by_one(answer: Answering, prompts: Sequence[Sequence[int]]) -> Timed:
    """Answers each prompt alone."""
    seconds: list[float] = []
    tokens = 0
    for prompt in prompts:
        start = time.perf_counter()
        tokens += answer([prompt])
        seconds.append(time.perf_counter() - start)
    return Timed(seconds, tokens)


def rows_per_second(answer: Answering, prompts: Sequence[Sequence[int]]) -> float | None:
    """How many rows a second are answered in batches; None without prompts."""
    if not prompts:
        return None
    start = time.perf_counter()
    answer(prompts)
    return len(prompts) / (time.perf_counter() - start)


def peak_bytes(before: int | None, device: str) -> int | None:
    """The process' peak above `before`, and the accelerator's own."""
    peak = peak_resident_bytes()
    if peak is None or before is None:
        return None
    return max(0, peak - before) + (torch.cuda.max_memory_allocated() if device == "cuda" else 0)


def reset_peak() -> None:
    """Starts the peaks anew where the system can: Linux' VmHWM (Documentation/filesystems/proc.rst) and CUDA's."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        (PROC / "clear_refs").write_text("5")
    except OSError:
        return  # the peak since the process began is then an upper bound


def resident_bytes() -> int | None:
    return _from_status("VmRSS") or _largest_resident()


def peak_resident_bytes() -> int | None:
    return _from_status("VmHWM") or _largest_resident()


def _from_status(field: str) -> int | None:
    try:
        lines = (PROC / "status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) * 1024 if found else None


def _largest_resident() -> int:
    """The process' largest resident size so far; macOS counts bytes, the rest kilobytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _import_architecture(spec: MeasureSpec) -> None:
    """Imports the model's code, which transformers does at the first load, without memory for weights."""
    try:
        config = AutoConfig.from_pretrained(spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
        models: Any = AutoModelForSequenceClassification if spec.labels else AutoModelForCausalLM
        with torch.device("meta"):
            models.from_config(config, trust_remote_code=spec.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(f"no model could be loaded from {spec.model!r}: {str(error).splitlines()[0]}") from None


def _why_it_died(code: int, stderr: str) -> str:
    if code < 0:
        what = "it ran out of memory or was stopped" if code == -9 else "it crashed"
        return f"the measuring process ended by signal {-code} ({what})"
    lines = stderr.strip().splitlines()
    return lines[-1][:300] if lines else f"the measuring process ended with code {code} and no message"


def main() -> int:
    try:
        found = measure_here(MeasureSpec(**json.load(sys.stdin)))
    except PotstillError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (TypeError, ValueError) as error:
        print(f"the specification cannot be read: {error}", file=sys.stderr)
        return ModelError.exit_code
    print(json.dumps(found.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
