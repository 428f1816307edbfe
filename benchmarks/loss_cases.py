"""One case of losses.py in a process of its own: a row's inputs, one function, and what it gives or costs; JSON on the last line.

    PYTHON benchmarks/loss_cases.py check|time --row C1-512 --function potstill [--threads 1] [--repetitions 5] [--distillkit DIR]

PYTHON is that of an environment with torch, our src on PYTHONPATH, and the peers. Every function is called as its own trainer
calls it, with its own chunks, and returns the sum over tokens, so that values and gradients can be compared.

Names of tensors carry their shape: N tokens, H hidden size, G the teacher's, V words, K teacher entries a token.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch

from potstill.kernels.cells import Cells, Full, Head, Term, cell_losses
from potstill.plugins import load_plugin


class Row(NamedTuple):
    """One row of the table: the shape, and beta of the divergence (0 is forward KL)."""

    tokens: int
    hidden: int
    words: int
    entries: int = 0
    teacher_hidden: int = 0
    beta: float = 0.0
    device: str = "cpu"


QWEN = 151_936
ROWS = {
    "C1-512": Row(512, 1024, QWEN, 64),
    "C1-2048": Row(2048, 1024, QWEN, 64),
    "C2-KL": Row(256, 1024, QWEN, 0, 2048),
    "C2-JSD": Row(256, 1024, QWEN, 0, 2048, 0.5),
    "H1": Row(8192, 2048, QWEN, 64, device="cuda"),
    "H2-KL": Row(8192, 2048, QWEN, 0, 4096, device="cuda"),
    "H2-JSD": Row(8192, 2048, QWEN, 0, 4096, 0.5, "cuda"),
    "H3-65536": Row(65_536, 2048, QWEN, 64, device="cuda"),
    "H3-131072": Row(131_072, 2048, QWEN, 64, device="cuda"),
}
SLICE = {"tokens": 48, "words": 9000}
"""What is checked against float64: enough for several tiles, and for float64 on a small machine."""


class Given(NamedTuple):
    """A row's inputs; those of a sparse teacher are its entries, those of a dense one its hidden states and head."""

    row: Row
    hidden_NH: torch.Tensor
    head_VH: torch.Tensor
    index_NK: torch.Tensor
    logp_NK: torch.Tensor
    teacher_NG: torch.Tensor
    teacher_VG: torch.Tensor

    def to(self, dtype: torch.dtype) -> Given:
        changed = {name: tensor.to(dtype) for name, tensor in self._asdict().items() if name != "row" and name != "index_NK"}
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        return self._replace(**{**changed, "logp_NK": self.logp_NK.to(exact)})


def drawn(row: Row) -> Given:
    """bf16 inputs whose logits have a deviation of 2, made in parts so that making them leaves no peak."""
    generator = torch.Generator(row.device).manual_seed(0)

    def normal(rows: int, columns: int, scale: float) -> torch.Tensor:
        made = torch.empty(rows, columns, dtype=torch.bfloat16, device=row.device)
        for start in range(0, rows, 1024):
            part = made[start : start + 1024]
            part.copy_(torch.randn(part.shape, generator=generator, device=row.device) * scale)
        return made

    width = row.words // max(1, row.entries)  # a word of each stretch of the vocabulary, so that none comes twice
    within_NK = torch.randint(width, (row.tokens, row.entries), generator=generator, device=row.device)
    index_NK = within_NK + width * torch.arange(row.entries, device=row.device)
    scores_NC = torch.randn(row.tokens, row.entries + 1, generator=generator, device=row.device) * 2
    return Given(
        row,
        normal(row.tokens, row.hidden, 1.0),
        normal(row.words, row.hidden, 2 / row.hidden**0.5),
        index_NK,
        scores_NC.log_softmax(-1)[:, : row.entries].contiguous(),
        normal(row.tokens, row.teacher_hidden, 1.0),
        normal(row.words if row.teacher_hidden else 0, row.teacher_hidden, 2 / max(1, row.teacher_hidden) ** 0.5),
    )


def plain_sparse(given: Given) -> torch.Tensor:
    """Forward KL over the entries and one tail."""
    exact = given.logp_NK.dtype
    logq_NK = torch.log_softmax((given.hidden_NH @ given.head_VH.T).to(exact), dim=-1).gather(1, given.index_NK)
    p_NK = given.logp_NK.exp()
    rest_p_N, rest_q_N = 1 - p_NK.sum(1), 1 - logq_NK.exp().sum(1)
    return ((p_NK * (given.logp_NK - logq_NK)).sum(1) + rest_p_N * (rest_p_N.log() - rest_q_N.log())).sum()


def plain_dense(given: Given) -> torch.Tensor:
    exact, beta = given.logp_NK.dtype, given.row.beta
    logq_NV = torch.log_softmax((given.hidden_NH @ given.head_VH.T).to(exact), dim=-1)
    logp_NV = torch.log_softmax((given.teacher_NG @ given.teacher_VG.T).to(exact), dim=-1)
    divergence = torch.nn.functional.kl_div
    if beta == 0:
        return divergence(logq_NV, logp_NV, reduction="sum", log_target=True)
    mixture_NV = (beta * logp_NV.exp() + (1 - beta) * logq_NV.exp()).log()
    of_teacher = divergence(mixture_NV, logp_NV, reduction="sum", log_target=True)
    return beta * of_teacher + (1 - beta) * divergence(mixture_NV, logq_NV, reduction="sum", log_target=True)


def potstill(given: Given) -> torch.Tensor:
    head = Head(given.head_VH, None, 1.0, None, given.row.words)
    if given.row.entries:
        term = Term(load_plugin("losses", "forward_kl").formula, Cells(given.index_NK, given.logp_NK), 1.0, 1.0)
    else:
        loss = load_plugin("losses", {"kind": "jensen_shannon", "beta": given.row.beta})
        teacher = Full(given.teacher_NG, Head(given.teacher_VG, None, 1.0, None, given.row.words))
        term = Term(loss.formula, teacher, 1.0, 1.0)
    return cell_losses(given.hidden_NH, head, [term])[0]


def trl_sparse(given: Given) -> torch.Tensor:
    module = importlib.import_module("trl.experimental.async_distillation.async_distillation_trainer")
    mask_NK = torch.ones_like(given.index_NK, dtype=torch.bool)
    student = given.hidden_NH, given.head_VH, None, 1.0, None
    teacher = given.index_NK, given.logp_NK, mask_NK, 0.0, 1.0, True, None, 1
    total: torch.Tensor = module._chunked_jsd_loss(*student, *teacher, module._CHUNKED_LM_HEAD_CHUNK_SIZE)[0]
    return total


def distillkit(given: Given) -> torch.Tensor:
    function = importlib.import_module("distillkit.lossfuncs.kl").sparse_kl_div
    tail = importlib.import_module("distillkit.missing_probability").MissingProbabilityHandling.SYMMETRIC_UNIFORM
    logits_NV = given.hidden_NH @ given.head_VH.T
    total: torch.Tensor = function(logits_NV[None], given.index_NK[None], given.logp_NK[None], missing=tail)
    return total


def liger_dense_target(given: Given) -> torch.Tensor:
    """Its fused KL takes the whole target: the tail is spread evenly over the other words, which is another divergence."""
    function = importlib.import_module("liger_kernel.ops.fused_linear_kl_div").LigerFusedLinearKLDivFunction
    rest_N1 = (1 - given.logp_NK.exp().sum(1, keepdim=True)) / (given.row.words - given.row.entries)
    p_NV = rest_N1.to(given.hidden_NH.dtype).expand(-1, given.row.words).contiguous()
    p_NV.scatter_(1, given.index_NK, given.logp_NK.exp().to(p_NV.dtype))
    total: torch.Tensor = function.apply(given.hidden_NH, given.head_VH, p_NV, None, "sum", -100, 1.0)
    return total


def trl_dense(given: Given) -> torch.Tensor:
    function = importlib.import_module("trl.trainer.distillation_trainer")._chunked_divergence_loss
    mask_1N = torch.ones(1, len(given.hidden_NH), dtype=torch.int64, device=given.hidden_NH.device)
    heads = given.head_VH, given.teacher_VG
    total: torch.Tensor = function(given.hidden_NH[None], given.teacher_NG[None], *heads, mask_1N, given.row.beta, 1)[0]
    return total


def liger_chunked(given: Given, compiled: bool = True) -> torch.Tensor:
    module = importlib.import_module("liger_kernel.chunked_loss")
    loss = module.LigerFusedLinearJSDLoss(0.0, 1.0, given.row.beta, compiled=compiled)
    target_N = torch.zeros(len(given.hidden_NH), dtype=torch.int64, device=given.hidden_NH.device)
    mean: torch.Tensor = loss(given.hidden_NH, given.head_VH, given.teacher_NG, given.teacher_VG, target_N)
    return mean * len(target_N)


def liger_eager(given: Given) -> torch.Tensor:
    return liger_chunked(given, compiled=False)


def liger_fused(given: Given) -> torch.Tensor:
    function = importlib.import_module("liger_kernel.ops.fused_linear_jsd").LigerFusedLinearJSDFunction
    heads = given.hidden_NH, given.head_VH, given.teacher_NG, given.teacher_VG
    mean: torch.Tensor = function.apply(*heads, None, given.row.beta, -100, 1.0)
    return mean * len(given.hidden_NH)


SPARSE: dict[str, Callable[[Given], torch.Tensor]] = {
    "potstill": potstill, "plain torch": plain_sparse, "TRL sparse chunked": trl_sparse, "DistillKit sparse KL": distillkit
}  # fmt: skip
DENSE: dict[str, Callable[[Given], torch.Tensor]] = {
    "potstill": potstill, "plain torch": plain_dense, "TRL chunked": trl_dense, "Liger chunked, compiled": liger_chunked,
    "Liger chunked, not compiled": liger_eager,
}  # fmt: skip


def functions(name: str) -> dict[str, Callable[[Given], torch.Tensor]]:
    """What is measured in a row."""
    row = ROWS[name]
    if name.startswith("H3"):
        return {"potstill": potstill}
    if row.entries:
        return SPARSE if row.device == "cpu" else {**SPARSE, "Liger fused KL, dense target": liger_dense_target}
    return DENSE if row.device == "cpu" else {**DENSE, "Liger fused JSD": liger_fused}


def sliced(row: Row) -> Given:
    return drawn(row._replace(**SLICE))


def slopes(function: Callable[[Given], torch.Tensor], given: Given) -> list[torch.Tensor]:
    """The total, and its gradients in hidden states and head, in float64."""
    leaves = given.hidden_NH.detach().requires_grad_(), given.head_VH.detach().requires_grad_()
    total = function(given._replace(hidden_NH=leaves[0], head_VH=leaves[1]))
    return [part.detach().double() for part in (total, *torch.autograd.grad(total, leaves))]


def check(name: str, function: str) -> dict[str, Any]:
    """Relative distances to float64 of value and gradients (norms), in fp32 and bf16, on the same bf16 numbers."""
    given = sliced(ROWS[name])
    exact = slopes(plain_sparse if given.row.entries else plain_dense, given.to(torch.float64))
    found: dict[str, list[float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        own = slopes(functions(name)[function], given.to(dtype))
        found[str(dtype).removeprefix("torch.")] = [
            float((one - other).norm() / other.norm()) for one, other in zip(own, exact, strict=True)
        ]
    return found


def memory(device: str, field: str) -> int:
    """Bytes: VmRSS now or VmHWM at the most; of the accelerator where it runs there."""
    if device == "cuda":
        return torch.cuda.memory_allocated() if field == "VmRSS" else torch.cuda.max_memory_allocated()
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as peaks:
        peaks.write("5")


def timed(name: str, function: str, repetitions: int) -> dict[str, Any]:
    """Median seconds, wall and process, after one that is not counted; and bytes beyond inputs and gradients at the most."""
    call, row = functions(name)[function], ROWS[name]
    slopes(call, sliced(row))  # loads code and libraries
    given = drawn(row)
    given.hidden_NH.requires_grad_()
    given.head_VH.requires_grad_()
    forget_peak(row.device)
    before, walls, processes = memory(row.device, "VmRSS"), [], []
    for _ in range(repetitions + 1):
        given.hidden_NH.grad = given.head_VH.grad = None
        wall, process = time.perf_counter(), time.process_time()
        call(given).backward()
        if row.device == "cuda":
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - wall)
        processes.append(time.process_time() - process)
    beyond = memory(row.device, "VmHWM") - before - given.hidden_NH.nbytes - given.head_VH.nbytes
    return {"wall": median(walls[1:]), "process": median(processes[1:]), "beyond": beyond, "from": min(processes[1:]),
            "to": max(processes[1:])}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=("check", "time"))
    options.add_argument("--row", choices=ROWS, required=True)
    options.add_argument("--function", required=True)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument("--distillkit", help="a folder that holds its package")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    if given.distillkit:
        sys.path.insert(0, given.distillkit)
    try:
        told = check(given.row, given.function) if given.what == "check" else timed(given.row, given.function, given.repetitions)
    except ModuleNotFoundError as missing:
        told = {"missing": str(missing)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
