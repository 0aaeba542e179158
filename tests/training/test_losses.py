"""The losses against their formulas and against torch."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from chestxray.training.losses import LOSSES, FocalLoss


@pytest.fixture
def logits() -> torch.Tensor:
    return 4 * torch.randn(7, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.randint(0, 2, (7, 15), generator=torch.Generator().manual_seed(1)).double()


def test_focal_loss_with_gamma_0_is_bce(logits: torch.Tensor, targets: torch.Tensor) -> None:
    expected = binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(FocalLoss(gamma=0)(logits, targets), expected, rtol=1e-12, atol=0)


def test_focal_loss_is_its_formula(logits: torch.Tensor, targets: torch.Tensor) -> None:
    bce = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    expected = ((1 - torch.exp(-bce)) ** 2 * bce).mean()
    torch.testing.assert_close(FocalLoss()(logits, targets), expected, rtol=1e-12, atol=0)


def test_the_gradient_of_focal_loss_is_that_of_its_values(
    logits: torch.Tensor, targets: torch.Tensor
) -> None:
    assert torch.autograd.gradcheck(FocalLoss(), (logits.requires_grad_(), targets))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_finite_for_large_logits(name: str) -> None:
    logits = torch.tensor([[-200.0, 200.0, -200.0, 200.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    loss = LOSSES[name]()(logits, targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_bce_is_torchs(logits: torch.Tensor, targets: torch.Tensor) -> None:
    expected = binary_cross_entropy_with_logits(logits, targets)
    assert torch.equal(LOSSES["BCE"]()(logits, targets), expected)
