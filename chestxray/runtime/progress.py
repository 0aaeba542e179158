"""Progress of the work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts images on stderr: `epoch 1/4  320/1375  loss 0.081  24 images/s`."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self._from, self._began = done, time.monotonic()
        self._next_line = self._began + SECONDS_BETWEEN_LINES
        self._bar = (
            tqdm(desc=title, total=total, initial=done, unit="image", leave=False, smoothing=0.1)
            if sys.stderr is not None and sys.stderr.isatty()  # None: closed at the start
            else None
        )

    def advance(self, images: int, loss: float | None = None) -> None:
        """Count images as done; `loss` is the mean over the epoch so far."""
        self.done += images
        if self._bar is not None:
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            self._bar.update(images)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            rate = (self.done - self._from) / (time.monotonic() - self._began)
            shown = f"  loss {loss:.3f}" if loss is not None else ""
            line = f"{self.title}  {self.done}/{self.total}{shown}  {rate:.0f} images/s"
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
