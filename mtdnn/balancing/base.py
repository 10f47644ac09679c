"""What a way to balance tasks is: it weights the losses of an update, or combines the gradients of its tasks.

An update holds a batch of each of several tasks; K is the number of tasks in it, which may be fewer than the run has.
L_i is the whole loss of task i: label loss, its `weight` in the definition, penalties. PyTorch is loaded when a
balancer is made, so that `check` and `--help` know names and options without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mtdnn.balancing.gramian import gramian, weighted_sum
from mtdnn.config.options import NoOptions, Options
from mtdnn.deferred import deferred
from mtdnn.errors import Fault, fault
from mtdnn.registry import Registry
from mtdnn.task_types.base import LogitsOf

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = deferred("torch")

BALANCERS: Registry[type[Balancer]] = Registry(
    "balance", base=lambda: Balancer, own=("name",), takes=("tasks",), keywords=("device",)
)
"""The words for `balance:` in a run."""

Gradient = Sequence["Tensor | None"]
"""Of one task, by shared weight; None for a weight that it does not touch."""


class Balancer:
    """Says how the tasks of an update are combined; this base adds their losses up.

    Class attributes:
        name: the registered name.
        Options: checked by pydantic.
        acts: before = the weight of a loss is known before its backward pass; after = it depends on the loss's value,
            and the gradient is multiplied afterwards; together = gradients of the shared weights are combined once all
            tasks have gone backward, while every head keeps its own gradient.
        needs_several: whether updates of one task leave it nothing to do; not so for a class that has a `weight`.
        needs_losses: whether it gets the losses of an update's tasks; their sums over processes cost a reduction.
        needs_norms: whether `before_move` gets the norms of the gradients at the last shared layer.
        measures_again: whether `after_measuring` gets the losses of the same batches after the step, a forward pass
            each.
        packages: modules it imports that mtdnn does not need otherwise.
    Args:
        tasks: those of the run → what their logits belong to.
        device: where the weights are.
        options: the method's own.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Options]] = NoOptions
    acts: ClassVar[Literal["before", "after", "together"]] = "before"
    needs_several: ClassVar[bool] = True
    needs_losses: ClassVar[bool] = True
    needs_norms: ClassVar[bool] = False
    measures_again: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "acts" not in vars(cls) and {"combine", "combine_apart"} & vars(cls).keys():
            cls.acts = "together"
        if "needs_several" not in vars(cls) and "weight" in vars(cls):
            cls.needs_several = cls.acts != "before" or cls.needs_norms

    def __init__(self, tasks: Mapping[str, LogitsOf], *, device: torch.device | str = "cpu", **options: Any) -> None:
        self.tasks, self.device = dict(tasks), device
        self.options: Any = self.Options(**options)

    @classmethod
    def faults(cls, options: Mapping[str, Any], tasks: Sequence[str]) -> list[Fault]:
        """What `check` reports of options that depend on the tasks of the run, and of packages that are missing.

        Args:
            options: as given in the run.
            tasks: names of the tasks trained on.
        """
        missing = [name for name in cls.packages if find_spec(name) is None]
        if not missing:
            return []
        found = f"{cls.name} needs {', '.join(missing)}, not installed"
        return [fault("", "balance", found, "Run: pip install 'mtdnn[balance]'.")]

    @classmethod
    def needs_apart(cls) -> bool:
        """Whether it needs the gradient of each task, at the shared weights or at the last layer."""
        return cls.acts != "before" or cls.needs_norms

    @property
    def lr(self) -> float:
        """Peak learning rate of `parameters`."""
        return float(self.options.lr)

    def parameters(self) -> list[nn.Parameter]:
        """Weights that it learns, for the run's optimizer; their gradients are set by `before_move`."""
        return []

    def weight(self, task: str) -> Tensor | float:
        """Factor of the loss of a task, a scalar without gradient, where it is known before the backward pass."""
        return 1.0

    def weights(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Task → its `weight` in this update; without those that are the number 1.

        Args:
            tasks: those of the update.
        """
        found = {task: self.weight(task) for task in tasks}
        return {task: torch.as_tensor(each, device=self.device) for task, each in found.items() if not _is_one(each)}

    def weight_after(self, task: str, tasks: Sequence[str], loss: Tensor) -> Tensor:
        """Factor of the gradient of a task, a scalar, where it `acts` after the backward pass.

        Args:
            task: the one that has gone backward.
            tasks: those of the update.
            loss: its label loss.
        """
        raise NotImplementedError

    def common_factor(self, tasks: Sequence[str], losses: Mapping[str, Tensor]) -> Tensor:
        """Factor of the sum of the gradients that `weight_after` has weighted, a scalar.

        Args:
            tasks: those of the update.
            losses: task → label loss.
        """
        raise NotImplementedError

    def combine(self, gradients: Tensor) -> Tensor:
        """[P]: one gradient of the shared weights from those of K ≥ 2 tasks. A class that has it `acts` together.

        Args:
            gradients: [K, P] float32, of each task of the update; 0 for weights that it does not touch.
        """
        raise NotImplementedError

    def combine_apart(self, gradients: Sequence[Gradient]) -> tuple[list[Tensor | None], Tensor | None]:
        """As `combine`, for a method that can do without a second copy of the gradients; may overwrite them.

        Args:
            gradients: float32, of each task of the update by shared weight.
        Returns:
            The gradient by shared weight; and [K] the weights it is the weighted sum with, None where it is none.
        """
        shapes = [next((each for each in found if each is not None), None) for found in zip(*gradients, strict=True)]
        touched = [(index, like) for index, like in enumerate(shapes) if like is not None]
        if not touched:
            return [None] * len(shapes), None
        rows = [torch.cat([_or_zeros(own[index], like).reshape(-1) for index, like in touched]) for own in gradients]
        parts = iter(self.combine(torch.stack(rows)).split([like.numel() for _, like in touched]))
        return [None if like is None else next(parts).view_as(like) for like in shapes], None

    def before_move(self, losses: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> None:
        """All gradients are there: set those of `parameters`.

        Args:
            losses: task of the update → L_i, not weighted by this method, over all processes.
            norms: task → norm of the gradient of its weighted loss at the last shared layer, where `needs_norms`.
        """

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        """The optimizer has moved.

        Args:
            losses: task of the update → L_i; the label loss where it `measures_again`.
        """

    def after_measuring(self, losses: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
        """The optimizer has moved, and the losses are measured again, where it `measures_again`.

        Args:
            losses: task of the update → label loss.
            again: task → label loss of the same batch with the new weights.
        """

    def after_epoch(self) -> None:
        """The step that `after_step` was called for was the last one of an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` gave."""


def _or_zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def _is_one(weight: Tensor | float) -> bool:
    return isinstance(weight, (int, float)) and weight == 1


class GradientBalancer(Balancer):
    """A method whose combined gradient is Σ w_i g_i, with weights w that depend on the inner products of the g_i.

    Costs a backward pass per task, as `fixed` does, and memory for the shared weights' gradient of each task.
    """

    def combine(self, gradients: Tensor) -> Tensor:
        (found,), _ = self.combine_apart([[each.clone()] for each in gradients])
        return torch.zeros_like(gradients[0]) if found is None else found

    def combine_apart(self, gradients: Sequence[Gradient]) -> tuple[list[Tensor | None], Tensor | None]:
        products = gramian(gradients)
        weights = self.task_weights(products)
        return weighted_sum(gradients, weights), weights

    def task_weights(self, products: Tensor) -> Tensor:
        """[K] float64 on the host: the weights of the tasks' gradients.

        Args:
            products: [K, K] float64 on the host, g_i·g_j of the gradients.
        """
        raise NotImplementedError


class GramianBalancer(GradientBalancer):
    """A gradient method by one of TorchJD's weightings, all of which are the same for s·g_i, s > 0, as for g_i.

    The products are divided by their trace first: TorchJD takes gradients of a norm below 1e-2 for zero otherwise.
    """

    packages: ClassVar[tuple[str, ...]] = ("torchjd",)

    def task_weights(self, products: Tensor) -> Tensor:
        size = products.diagonal().sum()
        if not (size > 0 and size.isfinite()):  # what is not finite is found and reported by the norm of the gradient
            return torch.full((len(products),), 1 / len(products), dtype=products.dtype)
        weights: Tensor = self.weighting()(products / size)
        return weights

    def weighting(self) -> Any:
        """TorchJD's weighting: [K, K] products → [K] weights."""
        raise NotImplementedError
