"""The values and gradients of our divergences beside those of TRL and Liger, on the same random inputs.

    python benchmarks/peer_values.py --peers PYTHON [--tokens 16] [--words 500] [--hidden 24] [--top-k 8] [--seed 0]

PYTHON is that of an environment with torch, trl and liger-kernel. Theirs run in float32, ours through the loss engine in
float64 from the same float32 inputs. The differences are relative: to our value, and to the largest entry of our gradient.
Rows that are to agree and do not end the script with status 1; docs/objectives.md says why the others differ.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from potstill.kernels.cells import Cells, Head, Term, cell_losses
from potstill.plugins import load_plugin

THEIRS = Path(__file__).with_name("peer_functions.py")
ROUNDING = 1e-5
NUM_PADDED = 12


def drawn(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Hidden states and heads of a student and a wider teacher, and the teacher's top k words; float32."""
    generator = torch.Generator().manual_seed(options.seed)
    n, v, h, g = options.tokens, options.words, options.hidden, 2 * options.hidden
    given = {
        "student_NH": torch.randn(n, h, generator=generator),
        "student_VH": torch.randn(v, h, generator=generator) * 2 / h**0.5,
        "teacher_NG": torch.randn(n, g, generator=generator),
        "teacher_VG": torch.randn(v, g, generator=generator) * 3 / g**0.5,
    }
    given["padded_VG"] = torch.cat([given["teacher_VG"], torch.zeros(NUM_PADDED, g)])
    top = torch.log_softmax(given["teacher_NG"] @ given["teacher_VG"].T, -1).topk(options.top_k)
    given["topk_index_NK"], given["topk_logp_NK"] = top.indices, top.values
    given["sure_index_NK"], given["sure_logp_NK"] = top.indices[:, :1].clone(), torch.zeros(n, 1)
    return given


def theirs(python: Path, given: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    environment["TRL_EXPERIMENTAL_SILENCE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "inputs.pt"), Path(folder, "outputs.pt")
        torch.save(given, inputs)
        subprocess.run([python, THEIRS, inputs, outputs], check=True, env=environment)
        results: list[dict[str, Any]] = torch.load(outputs, weights_only=True)
    return results


def ours(given: dict[str, torch.Tensor], call: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """The sum over tokens and its gradient in the student's hidden states, without the factor T^2, which peers lack."""
    exact = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in given.items()}
    temperature, teacher = call["temperature"], call["teacher"]
    if teacher in ("topk", "sure"):
        cells = Cells(exact[f"{teacher}_index_NK"], exact[f"{teacher}_logp_NK"])
    else:
        scores_NV = exact["teacher_NG"] @ exact["teacher_VG"].T / temperature
        cells = Cells(torch.arange(scores_NV.shape[1]).expand(scores_NV.shape), scores_NV.log_softmax(-1))
    leaf, weight = exact["student_NH"].requires_grad_(), exact["student_VH"]
    term = Term(load_plugin("losses", call["ours"]).formula, cells, 1.0, temperature)
    total = cell_losses(leaf, Head(weight, None, 1.0, None, weight.shape[0]), [term])[0] / temperature**2
    (slope,) = torch.autograd.grad(total, leaf)
    return float(total.detach()), slope


def compared(given: dict[str, torch.Tensor], calls: list[dict[str, Any]]) -> tuple[Table, list[str]]:
    """The table, and the functions that should agree and do not."""
    table = Table("function", "loss of ours", "T", "teacher", "ours", "theirs", "value off", "gradient off", "", box=None)
    wrong = []
    for call in calls:
        settings = " ".join(f"{value}" if key == "kind" else f"{key}={value}" for key, value in call["ours"].items())
        value, slope = ours(given, call)
        off = abs(call["value"] - value) / abs(value)
        bent = float((call["gradient"].double() - slope).abs().max() / slope.abs().max())
        same = max(off, bent) <= ROUNDING
        verdict = "agrees" if same else f"differs: {call['why'] or 'UNEXPECTED'}"
        shown = (call["function"], settings, f"{call['temperature']:g}", call["teacher"], f"{value:.6f}")
        table.add_row(*shown, f"{call['value']:.6f}", f"{off:.1e}", f"{bent:.1e}", verdict)
        if same == bool(call["why"]):
            wrong.append(f"{call['function']} {settings} T={call['temperature']:g} {call['teacher']}: {verdict}")
    return table, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="the Python of an environment with trl and liger-kernel")
    for name, default in (("tokens", 16), ("words", 500), ("hidden", 24), ("top-k", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    given = drawn(options)
    table, wrong = compared(given, theirs(options.peers, given))
    Console(width=200).print(table)
    if wrong:
        sys.exit("not as documented:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
