"""How a run continues from a checkpoint, and with which moments."""

import pytest
import torch
from helpers import checkpoint_of

from chestxray.checkpoints.checkpoint import Checkpoint
from chestxray.training.run import continue_run, restore_optimizer


def held(**changes: object) -> Checkpoint:
    """A stage 1 that has done all its four epochs, changed."""
    return checkpoint_of(**changes)


@pytest.mark.parametrize(
    ("changes", "stage", "more", "planned", "images"),
    [
        ({"epochs_done": 2, "images_done": 1}, 1, False, 4, 1),  # unfinished: to its end
        ({"epochs_done": 2, "images_done": 1}, 1, True, 5, 1),  # --epochs counts from here
        ({}, 1, False, 7, 0),  # finished: --epochs more
        ({}, 1, True, 7, 0),
        ({}, 2, False, 7, 0),  # another stage: a new run
        ({"epochs_done": 2, "images_done": 1}, 2, False, 5, 0),  # ... between epochs
    ],
)
def test_how_far_a_continued_run_goes(
    changes: dict[str, object], stage: int, more: bool, planned: int, images: int
) -> None:
    stored = held(**changes)
    found = continue_run(stored, stage, 1e-4, epochs=3, more=more)
    assert found.epochs_planned == planned
    assert found.images_done == images
    assert found.run_id == stored.run_id
    assert found.history == stored.history and found.history is not stored.history


def test_a_run_remembers_the_checkpoint_that_it_began_from() -> None:
    unfinished = held(epochs_done=2, parent="before.pth")
    assert continue_run(unfinished, 1, 1e-4, 3, more=False).parent == "before.pth"
    assert continue_run(held(), 1, 1e-4, 3, more=False).parent == "stage1_0001_04.pth"
    assert continue_run(held(), 2, 1e-4, 3, more=False).parent == "stage1_0001_04.pth"


def test_the_optimizer_goes_on_with_its_moments_at_the_new_rate() -> None:
    model = torch.nn.Linear(2, 1)
    old = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.ones(1, 2)).sum().backward()
    old.step()
    new = torch.optim.Adam(model.parameters(), lr=1e-4)
    restore_optimizer(new, old.state_dict())
    assert new.param_groups[0]["lr"] == 1e-4
    for parameter in model.parameters():
        assert torch.equal(new.state[parameter]["exp_avg"], old.state[parameter]["exp_avg"])
