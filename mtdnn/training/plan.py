"""When a run logs, evaluates, saves and stops, and its progress."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Every = int | Literal["epoch", "never"]


@dataclass
class Progress:
    """Progress of a run, as plain values.

    Attributes:
        step: optimizer steps done.
        epoch, epoch_step: the next step is step `epoch_step` of epoch `epoch`, both counted from 0.
        best_score, best_step: of the best evaluation so far.
        patience_score: of the last evaluation that rose by more than `min_delta`.
        without_rise: evaluations since that one.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    patience_score: float = -math.inf
    without_rise: int = 0


@dataclass(frozen=True)
class Plan:
    """When a run logs, evaluates, saves and stops.

    Attributes:
        total_steps: of the run.
        evaluate_every, checkpoint_every: steps, "epoch" or "never".
        log_every: steps.
        log_gradients: also log, once per task and line, the gradient norm of each loss term; costs one more pass.
        log_conflicts, log_affinity: steps between two measurements of how the tasks of a step agree; 0 = never.
        patience: evaluations without a rise of more than `min_delta` after which the run stops; None = never.
        score_name: what the score is that selects the best checkpoint, for messages.
    """

    total_steps: int
    evaluate_every: Every = "epoch"
    checkpoint_every: Every = "epoch"
    log_every: int = 10
    log_gradients: bool = False
    log_conflicts: int = 0
    log_affinity: int = 0
    patience: int | None = None
    min_delta: float = 0.0
    score_name: str = "the dev score"
