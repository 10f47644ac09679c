"""An exponential moving average of the weights of a run, which is evaluated and stored in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mtdnn.execution.sharding import fill
from mtdnn.model import MultiTaskModel
from mtdnn.regularizers.teacher import Teacher


class MovingAverage:
    """θ̄ ← β_t θ̄ + (1 − β_t) θ after each optimizer step t, with β_t = min(β, t ∕ (9 + t)).

    A fixed β would keep a short run near its start: with 0.999 half of the average is then older than 693 steps. Frozen
    weights are shared with the model. Source: Polyak & Juditsky 1992; the smaller β of the first steps is that of
    TensorFlow's ExponentialMovingAverage.

    Args:
        model: the average starts as a copy of it.
        decay: β.
    """

    def __init__(self, model: MultiTaskModel, decay: float) -> None:
        self.teacher, self.decay, self.steps_done = Teacher(model), decay, 0

    @property
    def model(self) -> MultiTaskModel:
        """The model with the averaged weights, in evaluation mode."""
        return cast(MultiTaskModel, self.teacher.module)

    def decay_of(self, step: int) -> float:
        """β_t of an optimizer step, counted from 1."""
        return min(self.decay, step / (9 + step))

    def after_step(self, model: MultiTaskModel) -> None:
        """Add the weights after an optimizer step. Buffers stay: thresholds are tuned with the average itself."""
        self.steps_done += 1
        self.teacher.move_weights(model, 1.0 - self.decay_of(self.steps_done))

    def state_dict(self, model: MultiTaskModel) -> dict[str, Any]:
        """The count of steps and the model's own weights; the average is stored as the checkpoint's weights."""
        named = model.named_parameters()
        weights = {name: each.detach().clone() for name, each in named if name not in self.teacher.shared}
        return {"steps_done": self.steps_done, "weights": weights}

    def load_state_dict(self, state: Mapping[str, Any], model: MultiTaskModel) -> None:
        """Restore the average and the model, bit for bit.

        Args:
            state: what `state_dict` returned.
            model: has the checkpoint's weights, those of the average; it gets its own.
        """
        self.steps_done = state["steps_done"]
        self.teacher.move(model, 1.0)
        own = dict(model.named_parameters())
        for name, weight in state["weights"].items():
            fill(own[name], weight)
