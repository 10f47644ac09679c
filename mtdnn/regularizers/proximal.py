"""SMART's Bregman proximal point term: it keeps the model near a slower copy of itself.

Source: Jiang et al. 2020, arXiv 1911.03437, equations 2 and 3, Algorithm 1, lines 1-4 and 11-15.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mtdnn.config.options import Options
from mtdnn.execution.sharding import fill, is_part, norm_of
from mtdnn.registry import Registry
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.regularizers.sizes import HalfLife, PartOfRun, Start
from mtdnn.regularizers.teacher import Teacher

logger = logging.getLogger(__name__)

PROXIMAL: Registry[type[Proximal]] = Registry(
    "proximal term",
    base=lambda: Proximal,
    own=("beta or after_step",),
    takes=("model",),
    keywords=("total_steps",),
)


class ProximalOptions(Options):
    """Options every proximal term has."""

    mu: float = Field(1.0, ge=0, description="μ, factor of the term; 0 turns it off.")
    inner_steps: int = Field(1, ge=1, description="S, optimizer steps between two updates of the teacher.")
    start_after: Start = Field(
        0, description="Optimizer steps without the term; the teacher then starts as the model of that moment."
    )


class MomentumOptions(ProximalOptions):
    """The paper's values."""

    beta: float = Field(0.99, ge=0, lt=1, description="β, decay of the teacher's moving average; 0 = vanilla.")
    beta_late: float = Field(0.999, ge=0, lt=1, description="β in the later part of the run.")
    late_after: float = Field(0.1, ge=0, le=1, description="Fraction of the updates after which β is beta_late.")
    half_life: HalfLife | None = Field(
        None, description="Optimizer steps that halve the weight of an old model; sets β in place of the three above."
    )

    @model_validator(mode="after")
    def _one_way_to_give_beta(self) -> MomentumOptions:
        fields = type(self).model_fields
        changed = [name for name in ("beta", "beta_late", "late_after") if getattr(self, name) != fields[name].default]
        if self.half_life is not None and changed:
            raise ValueError(f"half_life sets β for the whole run; remove {', '.join(changed)}, or half_life")
        return self


class Proximal:
    """D_Breg = mean_i ℓ_s(f(x_i; θ), f(x_i; θ̃)), the teacher θ̃ in evaluation mode and without gradient.

    Every S optimizer steps θ̃ ← (1−β)θ + βθ̃. It starts as a copy of the model, with which it shares the weights that are
    frozen. With `start_after` it starts later, when a new head has learnt something before the model is kept near it;
    until then the term is 0 and costs nothing. Cost: 1 forward unit.

    Args:
        model: the teacher starts as a copy of it, or as what becomes of it in `start_after` steps.
        total_steps: optimizer steps of the run.
    """

    name: ClassVar[str] = "proximal"
    Options: ClassVar[type[ProximalOptions]] = ProximalOptions

    def __init__(self, model: nn.Module, *, total_steps: int, **options: Any) -> None:
        self.options: Any = self.Options(**options)
        self.total_steps, self.steps_done = total_steps, 0
        self.teacher = Teacher(model)

    @property
    def start(self) -> int:
        """Optimizer steps before the teacher starts; a fraction of the run is rounded down."""
        given = self.options.start_after
        return given.whole_steps(self.total_steps) if isinstance(given, PartOfRun) else int(given)

    @property
    def weight(self) -> float:
        """μ, and 0 before the teacher starts; 0 = off."""
        return float(self.options.mu) if self.steps_done >= self.start else 0.0

    def beta(self, update: int) -> float:
        """β of the teacher's update after optimizer step `update`, counted from 1."""
        raise NotImplementedError

    def penalty(self, forward_pass: ForwardPass) -> Tensor:
        """D_Breg, a scalar ≥ 0, the mean over the rows of the batch, without its weight."""
        reference = forward_pass.rerun_with(self.teacher.module)
        return forward_pass.divergence(forward_pass.logits, reference).mean()

    def after_step(self, model: nn.Module) -> None:
        """Update the teacher every S steps from its start; called after each optimizer step."""
        self.steps_done += 1
        since = self.steps_done - self.start
        if since == 0:
            self.teacher.move(model, 1.0)
        elif since > 0 and since % self.options.inner_steps == 0:
            self.teacher.move(model, 1.0 - self.beta(self.steps_done))

    def drift(self, model: nn.Module) -> Tensor:
        """Scalar: ‖θ − θ̃‖ / ‖θ̃‖ over all weights that are trained; all processes must call it."""
        teacher, student = self.teacher.pairs(model)
        if not any(map(is_part, teacher)):
            return norm_of(torch._foreach_sub(student, teacher)) / norm_of(teacher)
        return norm_of(each - other for each, other in zip(student, teacher, strict=True)) / norm_of(teacher)

    def state_dict(self) -> dict[str, Any]:
        """The teacher's own weights and the count of steps."""
        state = self.teacher.module.state_dict()
        weights = {name: weight.clone() for name, weight in state.items() if name not in self.teacher.shared}
        return {"steps_done": self.steps_done, "teacher": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, bit for bit."""
        self.steps_done = state["steps_done"]
        weights = self.teacher.module.state_dict(keep_vars=True)
        if strange := (weights.keys() ^ state["teacher"].keys()) - self.teacher.shared:
            raise ValueError(f"the teacher of another model: one of the two has no '{min(strange)}'")
        for name, value in state["teacher"].items():
            fill(weights[name], value)


@PROXIMAL.register("momentum")
class Momentum(Proximal):
    """Equation 3: the teacher is a moving average of the model, slower in the later part of the run.

    The paper's β of 0.999 has a half-life of 693 steps: in a shorter run the teacher stays near the initial model. With
    `half_life` h, in optimizer steps or as a fraction of the run, β is 0.5^(S/h) throughout.
    """

    Options = MomentumOptions

    @property
    def half_life(self) -> float | None:
        """In optimizer steps; None where β is given."""
        given = self.options.half_life
        return given.steps(self.total_steps) if isinstance(given, PartOfRun) else given

    def beta(self, update: int) -> float:
        if self.half_life is not None:
            return float(0.5 ** (self.options.inner_steps / self.half_life))
        early = update <= PartOfRun(fraction=self.options.late_after).whole_steps(self.total_steps)
        return float(self.options.beta if early else self.options.beta_late)


@PROXIMAL.register("vanilla")
class Vanilla(Proximal):
    """Equation 2: the teacher is a copy of the model from its last update."""

    def __init__(self, model: nn.Module, *, total_steps: int, **options: Any) -> None:
        super().__init__(model, total_steps=total_steps, **options)
        if self.options.inner_steps == 1:
            logger.warning(
                "proximal: vanilla with inner_steps: 1 compares the model with itself: apart from dropout, the term "
                "and its gradient are zero at every step. Give inner_steps of 2 or more, or name: momentum."
            )

    def beta(self, update: int) -> float:
        return 0.0
