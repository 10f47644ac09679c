"""A live bar of a run: steps, time left, and the mean loss of each task."""

from __future__ import annotations

from collections.abc import Mapping

from tqdm import tqdm

from mtdnn.columns import bar_settings
from mtdnn.training.plan import Progress

SMOOTHING = 0.3  # weight of the newest log line in the displayed running loss


class ProgressBar:
    """Shows a run on standard error; call it after every step.

    Args:
        total: steps of the run.
        done: steps done before this call, in a resumed run.
        shown: False shows nothing.
    """

    def __init__(self, total: int, *, done: int = 0, shown: bool = True) -> None:
        self._bar = tqdm(total=total, initial=done, disable=not shown, unit="step", **bar_settings())
        self._running: dict[str, float] = {}

    def __call__(self, progress: Progress, means: Mapping[str, Mapping[str, float]]) -> None:
        for task, values in means.items():
            if "task" in values:
                before = self._running.get(task, values["task"])
                self._running[task] = (1 - SMOOTHING) * before + SMOOTHING * values["task"]
        if means:
            self._bar.set_postfix({task: f"{loss:.3f}" for task, loss in self._running.items()}, refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def close(self) -> None:
        """Close the bar; its last state stays on the screen."""
        self._bar.close()
