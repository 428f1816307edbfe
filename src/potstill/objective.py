"""What one forward pass minimises: the job's losses over the target tokens of a batch.

Names of tensors carry their shape: N target tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from .batches import Batch, Row
from .classifier import has_label_head, label_outlook
from .contracts import Loss
from .kernels.cells import Cells, Head, Term, cell_losses, target_loss, text_cells
from .student import head_of, hidden_states
from .types import Signal


class Told(NamedTuple):
    """What the teacher says of one batch's target tokens."""

    cells: Cells

    def to(self, device: torch.device) -> Told:
        index_NK, logp_NK = (tensor.to(device, non_blocking=True) for tensor in self.cells)
        return Told(Cells(index_NK, logp_NK))


class Signals(Protocol):
    """Where the teacher's log-probabilities of a batch come from: the disk, or a live teacher."""

    takes_packed: bool

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells: ...


class Objective(nn.Module):
    """Model and losses as one module, so that a data-parallel wrapper sees the whole step."""

    def __init__(self, model: PreTrainedModel, num_words: int, losses: Sequence[Loss], temperature: float) -> None:
        super().__init__()
        self.model = model
        self.num_words = num_words
        self.losses = losses
        self.temperature = temperature

    def forward(self, batch: Batch, told: Told | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted sum over the batch's target tokens, and each loss's own sum."""
        hidden_NH, head = self.outlook(batch)
        return cell_losses(hidden_NH, head, [self._term(loss, batch, told) for loss in self.losses])

    def text_loss(self, batch: Batch) -> torch.Tensor:
        """Cross entropy with the text, summed over the targets, each by its weight: the validation loss."""
        hidden_NH, head = self.outlook(batch)
        return cell_losses(hidden_NH, head, [Term(target_loss, text_cells(batch.target_N), 1.0, 1.0, batch.weight_N)])[0]

    def outlook(self, batch: Batch) -> tuple[torch.Tensor, Head]:
        """The states that predict the targets, and the projection that turns them into scores."""
        if has_label_head(self.model):
            return label_outlook(self.model, batch)
        hidden_BTH = hidden_states(self.model, batch.input_ids_BT, batch.position_ids_BT)
        return hidden_BTH.flatten(0, 1).index_select(0, batch.at_N), head_of(self.model, self.num_words)

    def _term(self, loss: Loss, batch: Batch, told: Told | None) -> Term:
        if loss.needs == Signal.TEXT:
            return Term(loss.formula, text_cells(batch.target_N), loss.weight, 1.0, batch.weight_N)
        assert told is not None
        return Term(loss.formula, told.cells, loss.weight, self.temperature, batch.weight_N)
