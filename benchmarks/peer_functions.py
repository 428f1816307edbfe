"""What TRL's and Liger's divergence functions make of given inputs; run by peer_values.py with their Python.

    PYTHON benchmarks/peer_functions.py INPUTS.pt OUTPUTS.pt

Each result is a dict: the function, which loss of ours it corresponds to (`ours`), which teacher it was shown (`teacher`: dense,
topk, sure or padded), the temperature, the sum over tokens and its gradient in the student's hidden states [N, H]. Liger's ops
are Triton kernels; without an NVIDIA GPU they run in Triton's interpreter (TRITON_INTERPRET=1), arithmetic unchanged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from liger_kernel.ops import kl_div, tvd
from liger_kernel.ops.fused_ce_tvd import LigerFusedCETVDFunction
from liger_kernel.ops.fused_linear_jsd import LigerFusedLinearJSDFunction
from liger_kernel.ops.fused_linear_kl_div import LigerFusedLinearKLDivFunction
from liger_kernel.ops.jsd import LigerJSDFunction
from liger_kernel.ops.kl_div import LigerKLDivLossFunction
from liger_kernel.ops.tvd import LigerTVDLossFunction
from trl.experimental.async_distillation.async_distillation_trainer import _chunked_jsd_loss
from trl.experimental.gkd import GKDTrainer
from trl.experimental.server_distillation.server_distillation_trainer import _add_tail_bucket, _jsd_divergence
from trl.trainer.distillation_trainer import _chunked_divergence_loss

BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)


class Call(NamedTuple):
    """One function of a peer, the loss of ours that it corresponds to, and what both are shown."""

    function: str
    ours: dict[str, Any]
    teacher: str
    temperature: float
    total: Callable[[dict[str, torch.Tensor]], torch.Tensor] | None
    why: str = ""
    """Why the two differ, where they are to differ."""


class Scalar(float):
    """A number that a kernel may cast, which Triton's compiler allows and its interpreter does not."""

    def to(self, dtype: Any) -> Scalar:
        del dtype
        return self


class Interpreted:
    """A kernel that is handed such numbers."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        def launch(*given: Any, **named: Any) -> Any:
            return self.kernel[grid](*map(castable, given), **{name: castable(value) for name, value in named.items()})

        return launch


def castable(value: Any) -> Any:
    return Scalar(value) if isinstance(value, float) else value


def jsd(beta: float) -> dict[str, Any]:
    return {"kind": "jensen_shannon", "beta": beta}


def scores(given: dict[str, torch.Tensor], temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Student's and teacher's scores [N, V], softened."""
    both = given["student_NH"] @ given["student_VH"].T, given["teacher_NG"] @ given["teacher_VG"].T
    return both[0] / temperature, both[1] / temperature


def trl_dense(beta: float, temperature: float) -> Iterator[Call]:
    ours = jsd(beta)

    def gkd(given: dict[str, torch.Tensor]) -> torch.Tensor:
        student, teacher = scores(given)
        return GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, temperature=temperature, reduction="sum")

    def chunked(given: dict[str, torch.Tensor]) -> torch.Tensor:
        student, teacher = given["student_NH"][None], given["teacher_NG"][None]
        mask = torch.ones(student.shape[:2], dtype=torch.int64)
        heads = given["student_VH"], given["teacher_VG"]
        return _chunked_divergence_loss(student, teacher, *heads, mask, beta, 1, temperature=temperature)[0]

    yield Call("trl gkd generalized_jsd_loss", ours, "dense", temperature, gkd)
    yield Call("trl distillation _chunked_divergence_loss", ours, "dense", temperature, chunked)


def trl_sparse(beta: float, teacher: str, tail: bool, why: str) -> Iterator[Call]:
    def chunked(given: dict[str, torch.Tensor]) -> torch.Tensor:
        index, logp = given[f"{teacher}_index_NK"], given[f"{teacher}_logp_NK"]
        allowed = torch.ones_like(index, dtype=torch.bool)
        student = given["student_NH"], given["student_VH"], None, 1.0, None
        return _chunked_jsd_loss(*student, index, logp, allowed, beta, 1.0, tail, None, 1, 4)[0]

    def server(given: dict[str, torch.Tensor]) -> torch.Tensor:
        index, logp = given[f"{teacher}_index_NK"], given[f"{teacher}_logp_NK"]
        allowed = torch.ones_like(index, dtype=torch.bool)
        student, mask = _add_tail_bucket(scores(given)[0].log_softmax(-1).gather(1, index), allowed)
        return _jsd_divergence(student, _add_tail_bucket(logp, allowed)[0], beta, mask).sum()

    named = "trl async_distillation _chunked_jsd_loss" + ("" if tail else ", no tail")
    yield Call(named, jsd(beta), teacher, 1.0, chunked, why)
    if tail:
        yield Call("trl server_distillation _jsd_divergence", jsd(beta), teacher, 1.0, server, why)


def liger_chunked(beta: float, temperature: float, teacher: str = "dense", why: str = "") -> Iterator[Call]:
    def chunked(given: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = LigerFusedLinearJSDLoss(0.0, 1.0, beta, temperature=temperature, compiled=False, chunk_size=4)
        target = torch.zeros(len(given["student_NH"]), dtype=torch.int64)
        weight = given["padded_VG" if teacher == "padded" else "teacher_VG"]
        mean = loss(given["student_NH"], given["student_VH"], given["teacher_NG"], weight, target)
        return mean * len(target)

    yield Call("liger chunked_loss JSD", jsd(beta), teacher, temperature, chunked, why)


def liger_jsd_ops(beta: float, temperature: float) -> Iterator[Call]:
    def plain(given: dict[str, torch.Tensor]) -> torch.Tensor:
        student, teacher = (one.log_softmax(-1) for one in scores(given, temperature))
        return LigerJSDFunction.apply(student, teacher, None, beta) * len(student)

    def fused(given: dict[str, torch.Tensor]) -> torch.Tensor:
        heads = given["student_NH"], given["student_VH"], given["teacher_NG"], given["teacher_VG"]
        return LigerFusedLinearJSDFunction.apply(*heads, None, beta, -100, temperature) * len(given["student_NH"])

    yield Call("liger ops jsd", jsd(beta), "dense", temperature, plain)
    yield Call("liger ops fused_linear_jsd", jsd(beta), "dense", temperature, fused)


def liger_other_ops(temperature: float) -> Iterator[Call]:
    forward, variation = {"kind": "forward_kl"}, {"kind": "total_variation"}

    def plain_kl(given: dict[str, torch.Tensor]) -> torch.Tensor:
        student, teacher = (one.log_softmax(-1) for one in scores(given, temperature))
        return LigerKLDivLossFunction.apply(student, teacher, "sum", True)

    def fused_kl(given: dict[str, torch.Tensor]) -> torch.Tensor:
        teacher = scores(given, temperature)[1].softmax(-1)
        return LigerFusedLinearKLDivFunction.apply(
            given["student_NH"], given["student_VH"], teacher, None, "sum", -100, temperature
        )

    def plain_tvd(given: dict[str, torch.Tensor]) -> torch.Tensor:
        student, teacher = (one.softmax(-1) for one in scores(given, temperature))
        return LigerTVDLossFunction.apply(student, teacher, None, "batchmean") * len(student)

    def ce_tvd(given: dict[str, torch.Tensor]) -> torch.Tensor:
        target = torch.zeros(len(given["student_NH"]), dtype=torch.int64)
        return LigerFusedCETVDFunction.apply(*scores(given, temperature), target)[1].sum()

    yield Call("liger ops kl_div", forward, "dense", temperature, plain_kl)
    yield Call("liger ops fused_linear_kl_div", forward, "dense", temperature, fused_kl)
    yield Call("liger ops tvd", variation, "dense", temperature, plain_tvd)
    yield Call("liger ops fused_ce_tvd", variation, "dense", temperature, ce_tvd)


def calls() -> Iterator[Call]:
    for temperature in (1.0, 2.0):
        for beta in BETAS:
            yield from trl_dense(beta, temperature)
            yield from liger_chunked(beta, temperature)
            yield from liger_jsd_ops(beta, temperature)
        yield from liger_other_ops(temperature)
    for beta in BETAS:
        yield from trl_sparse(beta, "topk", True, "")
    yield from trl_sparse(0.0, "topk", False, "top-k made to sum to 1")
    yield from trl_sparse(1.0, "sure", True, "tail of at least 1e-7")
    yield from liger_chunked(0.5, 1.0, "padded", "padding is given probability")


def main() -> None:
    inputs, outputs = sys.argv[1:]
    given = torch.load(inputs, weights_only=True)
    if os.environ.get("TRITON_INTERPRET") == "1":
        kl_div._kldiv_kernel_forward = Interpreted(kl_div._kldiv_kernel_forward)
        tvd._tv_distance_kernel = Interpreted(tvd._tv_distance_kernel)
    results = []
    for call in calls():
        leaf = given["student_NH"].clone().requires_grad_()
        assert call.total is not None
        total = call.total({**given, "student_NH": leaf})
        (slope,) = torch.autograd.grad(total, leaf)
        results.append({**call._replace(total=None)._asdict(), "value": float(total.detach()), "gradient": slope})
    torch.save(results, outputs)


if __name__ == "__main__":
    main()
