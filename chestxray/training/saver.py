"""Saving a run: after each epoch, now and then within one, and where a signal stops it."""

import time
from collections.abc import Callable

import torch
from torch import nn

from chestxray.runtime.cli import say
from chestxray.runtime.memory import return_freed_memory
from chestxray.runtime.signals import Stopped
from chestxray.training.run import Run
from chestxray.training.run_folder import RunFolder


class Saver:
    """Saves a run, and ends it well.

    As a context manager around the epochs it saves what was done when a signal stops them, says
    how to resume, and explains a loss that diverged.

    Args:
        folder: the files of the run; None in a process that writes none.
        run: moved on by training.
        network, optimizer: as they are at each save.
        check: raises Stopped where the job was asked to stop.
        seconds: save inside an epoch after so long.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        run: Run,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        check: Callable[[], None],
        seconds: float,
    ) -> None:
        self.folder, self.run, self.check = folder, run, check
        self._state = network, optimizer
        self._seconds = seconds
        self._note_saved()

    def save_epoch(self) -> None:
        """Save the epoch that the run has just finished."""
        if self.folder is not None:
            line = self.folder.save_epoch(self.run, *self._state)
            return_freed_memory()
            say(line)
        self._note_saved()

    def after_sync(self) -> None:
        """Stop where that was asked for; save where it is due. Called after a whole batch."""
        self.check()
        if time.monotonic() - self._saved_at > self._seconds:
            self._save_partial_epoch()

    def _save_partial_epoch(self) -> None:
        if self.folder is not None:
            self.folder.save_partial_epoch(self.run, *self._state)
        self._note_saved()

    def _note_saved(self) -> None:
        self._saved_at, self._saved = time.monotonic(), self.run.position()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, FloatingPointError):
            raise FloatingPointError(
                f"epoch {self.run.epochs_done + 1} at lr {self.run.lr:g} has diverged: {error}\n"
                "the checkpoints are as they were; a smaller --lr helps most often"
            ) from error
        if isinstance(error, Stopped):
            if self.run.position() != self._saved:
                self._save_partial_epoch()
            if self.folder is not None:
                say(self.folder.resume_hint(self.run))
