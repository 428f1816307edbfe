"""Weights of losses and temperature that change over the run: straight lines from their first to their final value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .contracts import Loss
from .recipe import TrainSettings


class Ramps(NamedTuple):
    """The weights of the losses, in their order, and the temperature of one step."""

    weights: tuple[float, ...]
    temperature: float


def ramps_at(step: int, num_steps: int, settings: TrainSettings, losses: Sequence[Loss]) -> Ramps:
    """The weights and the temperature of step 0, 1, ...: the first step has the first ones, and the last the final ones."""
    reached = settings.ramp_share * (num_steps - 1)
    done = min(1.0, step / reached) if reached > 0 else 0.0

    def between(first: float, final: float | None) -> float:
        return first if final is None else first + done * (final - first)

    weights = tuple(between(loss.weight, loss.final_weight) for loss in losses)
    return Ramps(weights, between(settings.temperature, settings.final_temperature))


def ramp_problem(settings: TrainSettings) -> str | None:
    """Why the temperature cannot change over the run; None where it can."""
    if settings.final_temperature is None or (settings.signals == "live" and settings.on_cells()):
        return None
    why = "kept signals are of one temperature" if settings.on_cells() else "no loss of this job has a temperature"
    cure = "set train.signals to live, or leave it out" if settings.on_cells() else "leave it out"
    return f"train.final_temperature is {settings.final_temperature:g}, and {why}; {cure}"
