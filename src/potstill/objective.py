"""What one forward pass minimises: the job's losses over the target tokens of a batch.

Names of tensors carry their shape: N target tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn
from transformers import PreTrainedModel

from .aligned_terms import Aligned, term_of
from .batches import Batch, Row
from .classifier import has_label_head, label_outlook
from .contracts import LayerLoss, Loss
from .insides import Insides, watching
from .kernels.cells import Cells, Full, Head, Term, cell_losses, target_loss, text_cells
from .ramps import Ramps
from .student import head_of, hidden_states
from .transfer import TeacherInsides, Transfer
from .types import Signal


class Told(NamedTuple):
    """What the teacher says of one batch's target tokens, and what it computes inside of the batch's lines."""

    cells: Cells | Full | Aligned | None
    insides: Insides = MappingProxyType({})

    def to(self, device: torch.device) -> Told:
        insides = {place: tensor.to(device, non_blocking=True) for place, tensor in self.insides.items()}
        if self.cells is None or isinstance(self.cells, Full):  # a live teacher is on the student's device
            return Told(self.cells, insides)
        if isinstance(self.cells, Aligned):
            return Told(self.cells.to(device), insides)
        index_NK, logp_NK = (tensor.to(device, non_blocking=True) for tensor in self.cells)
        return Told(Cells(index_NK, logp_NK), insides)


class Signals(Protocol):
    """Where the teacher's log-probabilities of a batch come from: the disk, or a live teacher."""

    takes_packed: bool

    def cells(self, batch: Batch, rows: Sequence[Row]) -> Cells | Full | Aligned: ...


@runtime_checkable
class Softening(Protocol):
    """Signals of live teachers, whose temperature may change from step to step."""

    def soften(self, temperature: float) -> None: ...


class Objective(nn.Module):
    """Model and losses as one module, so that a data-parallel wrapper sees the whole step."""

    def __init__(
        self,
        model: PreTrainedModel,
        num_words: int,
        losses: Sequence[Loss],
        temperature: float,
        teacher: PreTrainedModel | None = None,
        seed: int = 0,
    ) -> None:
        """`teacher` is the model that layer losses compare with; `seed` draws their projections."""
        super().__init__()
        self.model = model
        self.num_words = num_words
        self.losses = losses
        self.temperature = temperature
        layer_losses = [loss for loss in losses if isinstance(loss, LayerLoss)]
        assert teacher is not None or not layer_losses
        self.transfer = Transfer(layer_losses, model, teacher, seed) if teacher is not None and layer_losses else None

    @property
    def own_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained beside the student and not saved with it, by name."""
        return {f"transfer.{name}": p for name, p in self.transfer.named_parameters()} if self.transfer is not None else {}

    def take(self, ramps: Ramps) -> None:
        """The weights and the temperature of the step to come."""
        pairs = zip(self.losses, ramps.weights, strict=True)
        self.losses = [loss.model_copy(update={"weight": weight}) for loss, weight in pairs]
        self.temperature = ramps.temperature
        if self.transfer is not None:
            self.transfer.weights = [loss.weight for loss in self.losses if isinstance(loss, LayerLoss)]

    def train(self, mode: bool = True) -> Objective:
        super().train(mode)
        for module in self.transfer.without_dropout if self.transfer is not None else ():
            module.training = False  # of this module alone: dropout elsewhere, adapters' too, stays
        return self

    def forward(self, batch: Batch, told: Told | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted sum over the batch's target tokens, and each loss's own sum."""
        if self.transfer is None:
            outlook = self.outlook(batch)
            return cell_losses(*outlook, self._terms(batch, told, outlook))
        assert told is not None
        with watching(self.model, self.transfer.places("student")) as seen:
            hidden_NH, head = self.outlook(batch)
        terms = self._terms(batch, told, (hidden_NH, head))
        total, cell_sums = cell_losses(hidden_NH, head, terms) if terms else _nothing(hidden_NH, head)
        more, layer_sums = self.transfer(seen, told.insides, batch)
        of_cells, of_layers = iter(cell_sums), iter(layer_sums)
        sums = [next(of_layers if isinstance(loss, LayerLoss) else of_cells) for loss in self.losses]
        return total + more, torch.stack([each.to(total.dtype) for each in sums])

    def ask(self, batch: Batch, rows: Sequence[Row], signals: Signals | None, teacher: TeacherInsides | None) -> Told | None:
        """What the teachers say of a batch. A teacher that gives both cells and insides is asked once where it sees the lines
        that the student sees; where it is asked more (`Row.asked`), its insides are still those of the student's lines."""
        if self.transfer is None or teacher is None:
            return None if signals is None else Told(signals.cells(batch, rows))
        with teacher.watched(self.transfer.places("teacher")) as seen:
            cells = None if signals is None else signals.cells(batch, rows)
            is_read = getattr(signals, "model", None) is teacher.model
            if not is_read or any(rows[number].asked is not None for number in batch.numbers):
                teacher.read(batch)
        return Told(cells, seen)

    def text_loss(self, batch: Batch) -> torch.Tensor:
        """Cross entropy with the text, summed over the targets, each by its weight: the validation loss."""
        hidden_NH, head = self.outlook(batch)
        return cell_losses(hidden_NH, head, [Term(target_loss, text_cells(batch.target_N), 1.0, 1.0, batch.weight_N)])[0]

    def outlook(self, batch: Batch) -> tuple[torch.Tensor, Head]:
        """The states that predict the targets, and the projection that turns them into scores."""
        if has_label_head(self.model):
            return label_outlook(self.model, batch)
        hidden_BTH = hidden_states(self.model, batch.input_ids_BT, batch.position_ids_BT)
        return _as_multiplied(hidden_BTH.flatten(0, 1).index_select(0, batch.at_N)), head_of(self.model, self.num_words)

    def _terms(self, batch: Batch, told: Told | None, outlook: tuple[torch.Tensor, Head]) -> list[Term]:
        on_words = (loss for loss in self.losses if not isinstance(loss, LayerLoss))
        return [self._term(loss, batch, told, outlook) for loss in on_words]

    def _term(self, loss: Loss, batch: Batch, told: Told | None, outlook: tuple[torch.Tensor, Head]) -> Term:
        if loss.needs == Signal.TEXT:
            return Term(loss.formula, text_cells(batch.target_N), loss.weight, 1.0, batch.text_N)
        assert told is not None
        assert told.cells is not None
        return term_of(loss, told.cells, self.temperature, batch.weight_N, outlook)


def _as_multiplied(hidden_NH: torch.Tensor) -> torch.Tensor:
    """While learning, in the dtype of the model's other products: under autocast a norm gives fp32, and the head's products, a
    fifth of a small model's, would be made in that. Validation stays exact."""
    device = hidden_NH.device.type
    lower = torch.is_grad_enabled() and torch.is_autocast_enabled(device)
    return hidden_NH.to(torch.get_autocast_dtype(device)) if lower else hidden_NH


def _nothing(hidden_NH: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
    """No loss over cells: gradients of 0 for the head and the last states, as other processes expect of every parameter."""
    parts = (hidden_NH, head.weight_VH, *([] if head.bias_V is None else [head.bias_V]))
    total = torch.stack([part.sum().float() * 0.0 for part in parts]).sum()
    return total, total.new_zeros(0)
