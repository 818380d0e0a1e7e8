"""Networks that learn what another one says of each token, which is more than the token itself says."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tools.draft_model import DraftConfig, DraftModel
from tools.model import Model, rotary


def divergence(said: Tensor, taught: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the tokens of how far logits are from log-probabilities (nats per token).

    Args:
        said: Logits of the pupil, `[B, T, n_vocab]`.
        taught: Log-probabilities of the teacher, of the same shape.
        weight: How much each token counts, `[B, T]`.
    """
    each = F.kl_div(said.float().log_softmax(-1), taught, reduction="none", log_target=True).sum(-1)
    return (each * weight).sum() / weight.sum()


class DraftPupil(DraftModel):
    """A draft model that learns from the model that it is to draft for."""

    def __init__(self, config: DraftConfig, teacher: Model) -> None:
        super().__init__(config)
        self._teacher = (teacher,)  # in a tuple it is no part of this module: not trained, not in a checkpoint

    def forward(self, tokens: Tensor, _mtp_weight: float, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training losses of a window, in the form of `tools.model.Model`.

        Args:
            tokens: Token ids `[B, T + 1]`.
            weight: How much each token counts when it is predicted, `[B, T + 1]`.

        Returns:
            tuple[Tensor, Tensor, Tensor]: The divergence from the teacher, which is to be minimised; the loss on the
            text; the divergence once more (nats per token).
        """
        (teacher,) = self._teacher
        with torch.no_grad():
            taught = teacher.logits(teacher.states(tokens[:, :-1], n_draft=0)[0]).float().log_softmax(-1)
        said = self.logits(tokens[:, :-1])
        each = F.cross_entropy(said.detach().flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
        loss = (each * weight[:, 1:].flatten()).sum() / weight[:, 1:].sum()
        total = divergence(said, taught, weight[:, 1:])
        return total, loss, total.detach()


class MtpPupil(nn.Module):
    """The MTP block of a trained model, which learns to say what the trunk says, several tokens ahead.

    Attributes:
        mtp: The block; everything else stays as it is.
    """

    def __init__(self, model: Model, n_draft: int = 4) -> None:
        super().__init__()
        self.mtp = copy.deepcopy(model.mtp)
        self._model = (model,)
        self._n_draft = n_draft

    def forward(self, tokens: Tensor, _mtp_weight: float, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training losses of a window, in the form of `tools.model.Model`.

        Args:
            tokens: Token ids `[B, T + 1]`.
            weight: How much each token counts when it is predicted, `[B, T + 1]`.

        Returns:
            tuple[Tensor, Tensor, Tensor]: The mean divergence of all runs from the trunk, which is to be minimised; the
            first run's; the last run's (nats per token).
        """
        (model,) = self._model
        tokens, weight = tokens[:, :-1], weight[:, 1:]
        with torch.no_grad():
            (states,) = model.states(tokens, n_draft=0)
            taught = model.logits(states).float().log_softmax(-1)
            embedded = model.token_embd(tokens)
            cos, sin = rotary(model.config, tokens.shape[1])
        runs = []
        for _ in range(self._n_draft):
            states = self.mtp(embedded, F.pad(states[:, :-1], (0, 0, 1, 0)), cos, sin)
            runs.append(divergence(model.logits(states), taught, weight))
        return torch.stack(runs).mean(), runs[0].detach(), runs[-1].detach()
