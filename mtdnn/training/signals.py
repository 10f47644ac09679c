"""SIGTERM and SIGINT while a run trains: the step is finished, a checkpoint is written, then the run stops."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """The run was asked to stop by a signal and left a checkpoint to go on from.

    Attributes:
        signal_number: 2 for Ctrl-C, 15 for SIGTERM.
    """

    def __init__(self, signal_number: int, step: int) -> None:
        self.signal_number, self.step = signal_number, step
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}; --resume continues")


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that receives the number of a SIGTERM or SIGINT; a second Ctrl-C interrupts at once.

    Outside the main thread (a notebook's worker) signals cannot be caught, and the list stays empty.
    """
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        logger.warning("%s: stopping after this step", signal.Signals(number).name)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
