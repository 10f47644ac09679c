"""SIGTERM and SIGINT during training: the run finishes its step, writes a checkpoint and stops."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """A signal stopped the run; it wrote a checkpoint to resume from.

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
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        logger.warning("%s: stopping after this step", signal.Signals(number).name)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
