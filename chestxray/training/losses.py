"""Losses over (N, C) logits and targets, as modules."""

from collections.abc import Callable

import torch
from torch import nn
from torchvision.ops import sigmoid_focal_loss


class FocalLoss(nn.Module):
    """Binary focal loss, mean over images and classes: (1 - p_t)^gamma * BCE.

    Lin et al. 2017, arXiv:1708.02002, equation 4 (without alpha). gamma 0 is BCE.

    Args:
        gamma: at least 0; how much well-scored pairs are played down.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits and targets (N, C), targets 0 or 1 as float; returns a scalar."""
        return sigmoid_focal_loss(logits, targets, alpha=-1, gamma=self.gamma, reduction="mean")


LOSSES: dict[str, Callable[[], nn.Module]] = {"FocalLoss": FocalLoss, "BCE": nn.BCEWithLogitsLoss}
