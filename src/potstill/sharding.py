"""Weights, gradients and optimizer state split over the processes (FSDP2), for models that no single device holds.

A script that calls `train` and is started by `accelerate launch --use_fsdp` asks for it, as does a configuration of `accelerate
config` with FSDP; `potstill run` starts one process, and its other stages know of no more. How it is split is decided here: each
layer by itself, and the rest as one. accelerate's own preparation knows no FSDP on processors, where this is tested.

A layer's weights are gathered for each pass, so every process must make as many passes as the others (`Passes`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from .student import causal_model, layers_of


def wants_shards(accelerator: Accelerator) -> bool:
    """Whether the training was launched with FSDP, in several processes."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return accelerator.num_processes > 1 and (asked or accelerator.distributed_type == DistributedType.FSDP)


def shard(objective: nn.Module, model: nn.Module, device: torch.device) -> None:
    """Splits the parameters of the objective, and of the model in it, in place: other objects afterwards, of the same names."""
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    inner = causal_model(model)
    for layer in layers_of(inner, inner.config.get_text_config().num_hidden_layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    for method in ("text_loss",):  # what is called beside the forward pass gathers the weights too
        register_fsdp_forward_method(objective, method)


@contextlib.contextmanager
def gathered(objective: nn.Module) -> Iterator[None]:
    """Weights outside of the layers stay whole meanwhile, so that the model may be called by itself; layers see to their own."""
    if not isinstance(objective, FSDPModule):
        yield
        return
    objective.unshard()
    yield
    objective.reshard()


def whole(value: Any) -> Any:
    """A tensor, or a nest of dicts and lists of them, with nothing split. Where something is, all processes must ask at once."""
    if isinstance(value, DTensor):
        return value.full_tensor().detach()
    if isinstance(value, Mapping):
        return {key: whole(one) for key, one in value.items()}
    return [whole(one) for one in value] if isinstance(value, list) else value


def parted(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor, split as `like` is; every process has the whole one."""
    if not isinstance(like, DTensor):
        return tensor
    there = tensor.to(device=like.device, dtype=like.dtype)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


def parted_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole state, split as its parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def part(name: str, value: Any, like: torch.Tensor) -> Any:
        return parted(value, like) if isinstance(value, torch.Tensor) and value.shape == like.shape else value

    own = {
        number: {name: part(name, value, parameters[number]) for name, value in one.items()}
        for number, one in state["state"].items()
    }
    return {**state, "state": own}
