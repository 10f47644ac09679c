"""Large weights divided among the processes of a run, so that each holds a part of them, by PyTorch's FSDP2.

A process has an equal part of the rows of every linear layer of the encoder and of its word embeddings, with the
gradient and the optimizer state of that part alone. A layer's weights are gathered before each of its passes,
forward and backward, and freed after it; gradients are summed over the processes, and each keeps those of its part.
All other weights (normalisation, positions, heads) are small and whole on every process.

`torch.distributed.tensor` takes a second to import, so it is imported only by runs that divide weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

Named = Iterable[tuple[str, nn.Parameter]]


def divide(
    whole: nn.Module,
    *,
    stacks: Sequence[Sequence[nn.Module]],
    alone: Sequence[nn.Module],
    device: torch.device,
    gathered_as: torch.dtype | None = None,
) -> None:
    """Divide the weights of modules among all processes, in place; each process keeps its part.

    Gradients are summed, not averaged. Passes may come in any number and order between two backward passes.

    Args:
        whole: a model that contains the modules. Where it has one of their weights in a second place, as T5 has its
            word embeddings, the part is put there too.
        stacks: of layers; those of a stack are called one after another, and are gathered one ahead.
        alone: word embeddings.
        device: of the process.
        gathered_as: dtype of gathered layers; None: their own. Word embeddings keep theirs, since small differences of
            them would be lost.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, share_comm_ctx

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    places = [(module, name) for module in whole.modules() for name, _ in module.named_parameters(recurse=False)]
    before = [getattr(module, name) for module, name in places]
    for stack in (*stacks, *([module] for module in alone)):
        dtype = gathered_as if any(stack is each for each in stacks) else None
        # Autocast decides the precision of inputs and outputs, as without sharding.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for module in stack:
            small = set(_weights_of_norms(module))
            fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=small)
        share_comm_ctx(cast(Any, list(stack)))
        _set_order(cast(Any, stack))
    _tie(places, before)


def _weights_of_norms(module: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of modules without a matrix: a thousandth of all, and in float32 also where layers are in bf16."""
    for each in module.modules():
        own_weights = list(each.parameters(recurse=False))
        if all(weight.dim() < 2 for weight in own_weights):
            yield from own_weights


def _set_order(stack: Sequence[Any]) -> None:
    """Sum gradients, and gather the next of a stack while one computes.

    By default a unit gathers, before its backward pass, what was called before it in any pass, which is wrong where not
    all passes go backward. A unit that is to gather itself has nothing to do.
    """
    for unit in stack:
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_modules_to_backward_prefetch([unit])
        unit.unshard()  # a unit can only be gathered ahead once it has been gathered
        unit.reshard()
    for first, second in pairwise(stack):
        first.set_modules_to_forward_prefetch([second])
        second.set_modules_to_backward_prefetch([first])


def _tie(places: Sequence[tuple[nn.Module, str]], before: Sequence[nn.Parameter]) -> None:
    """Put the part of a weight wherever the model has the weight.

    Args:
        places: module and name of every weight.
        before: what was there.
    """
    now = [getattr(module, name) for module, name in places]
    part = {id(old): new for old, new in zip(before, now, strict=True) if is_part(new)}
    for (module, name), old in zip(places, before, strict=True):
        if id(old) in part:
            module._parameters[name] = part[id(old)]


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor is divided among the processes."""
    return hasattr(tensor, "placements")


def own(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, in the same memory; a tensor that is not divided itself."""
    return cast(Tensor, cast(Any, tensor.detach())._local_tensor) if is_part(tensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """The whole tensor, on all processes, which all must call it; gradients flow through it to the parts, summed."""
    if not is_part(tensor):
        return tensor
    from torch.distributed.tensor import Partial

    return cast(Tensor, cast(Any, tensor).full_tensor(grad_placements=[Partial()]))


def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole value into a tensor; into one that is divided, this process's part of it."""
    with torch.no_grad():
        own(target).copy_(part_of(value, target))


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole value, divided as `like` is; the value itself where that is whole."""
    if not is_part(like):
        return value
    from torch.distributed.tensor import Shard

    mesh = cast(Any, like).device_mesh
    size, rank = mesh.size(), mesh.get_local_rank()
    assert list(cast(Any, like).placements) == [Shard(0)]
    parts = value.chunk(size)
    return parts[rank] if rank < len(parts) else value[:0]


def units_of(model: nn.Module) -> list[Any]:
    """The modules of a model that are gathered one by one; none in a model that is not divided."""
    return [module for module in model.modules() if hasattr(module, "unshard")]


@contextmanager
def held_whole(model: nn.Module) -> Iterator[None]:
    """A context in which every process holds the whole weights of a model and may use it on its own, without backward.

    All processes must enter it. Nothing happens in a model that is not divided.
    """
    units = units_of(model)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


def whole_state(model: nn.Module, *, kept: bool = True) -> dict[str, Tensor]:
    """The weights and buffers of a model, whole and on the host, one at a time; a weight with two names once.

    All processes must call it.

    Args:
        model: divided or not.
        kept: whether this process needs them; the others get an empty mapping.
    """
    found: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            whole = gathered(value.detach())
            seen[id(value)] = _on_host(whole) if kept else value
        found[name] = seen[id(value)]
    return found if kept else {}


def whole_values(values: Any, *, kept: bool = True) -> Any:
    """Nested mappings and sequences with their divided tensors whole, on the host. All processes must call it.

    Args:
        values: what a checkpoint has of training.
        kept: whether this process needs the whole ones; else their places have None.
    """
    if isinstance(values, Mapping):
        return {key: whole_values(value, kept=kept) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(whole_values(value, kept=kept) for value in values)
    if not isinstance(values, Tensor) or not is_part(values):
        return values
    whole = gathered(values.detach())
    return _on_host(whole) if kept else None


def _on_host(whole: Tensor) -> Tensor:
    """A gathered tensor in host memory of its own: where rows do not fill all parts, it is a view of a larger one."""
    found = whole.cpu()
    return found.clone() if found.untyped_storage().nbytes() > found.nbytes else found


def norm_of(tensors: Iterable[Tensor]) -> Tensor:
    """Scalar: the Euclidean norm of all numbers of some tensors, of divided ones over all processes.

    All processes must call it, if any of the tensors is divided.
    """
    given = list(tensors)
    return _norm([each for each in given if not is_part(each)], [own(each) for each in given if is_part(each)])


def _norm(whole: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    if not parts:
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(whole))))
        return norm
    squares = torch.stack(torch._foreach_norm(list(parts))).square().sum()
    torch.distributed.all_reduce(squares)
    return (squares + _norm(whole, []).square()).sqrt() if whole else squares.sqrt()


class Whole(nn.Module):
    """What a checkpoint needs of a model: its whole weights, by name.

    Args:
        weights: from `whole_state`.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._whole = dict(weights)

    def state_dict(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights."""
        return dict(self._whole)


class Parts:
    """The weights of a model as an optimizer sees them: of a divided one the part of this process, as a plain weight.

    So every optimizer works that changes each number by its own gradient and state. Parts and weights share memory.

    Args:
        model: divided or not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = dict(model.named_parameters())
        self._parts = {
            name: nn.Parameter(own(weight), requires_grad=weight.requires_grad)
            for name, weight in self._weights.items()
            if is_part(weight)
        }
        self._whole = {id(part): self._weights[name] for name, part in self._parts.items()}

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The names and weights for an optimizer, in the model's order."""
        for name, weight in self._weights.items():
            yield name, self._parts.get(name, weight)

    def take_gradients(self) -> None:
        """Move the gradients of the divided weights to their parts."""
        for name, part in self._parts.items():
            weight = self._weights[name]
            part.grad = None if weight.grad is None else own(weight.grad)
            weight.grad = None

    def clip(self, weights: Sequence[nn.Parameter], limit: float) -> Tensor:
        """Scale gradients so that their norm over all weights is at most a limit; the norm before that.

        Args:
            weights: of the optimizer.
            limit: the largest norm.
        """
        if not self._parts:
            return torch.nn.utils.clip_grad_norm_(weights, limit)
        given = [each for each in weights if each.grad is not None]
        parts = [cast(Tensor, each.grad) for each in given if id(each) in self._whole]
        whole = [cast(Tensor, each.grad) for each in given if id(each) not in self._whole]
        norm = _norm(whole, parts)
        torch._foreach_mul_([*parts, *whole], torch.clamp(limit / (norm + 1e-6), max=1.0))
        return norm

    def _divided(self, part: Tensor, value: Tensor) -> Tensor:
        """A value of a part as a divided tensor; itself for a weight that is whole."""
        weight = cast(Any, self._whole.get(id(part)))
        if weight is None or value.shape != part.shape:
            return value
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(
            value, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
        )

    def whole_optimizer_state(self, optimizer: torch.optim.Optimizer, *, kept: bool = True) -> dict[str, Any]:
        """The state of an optimizer of the parts as that of one of the whole weights. All processes must call it.

        Args:
            optimizer: over `named`.
            kept: whether this process needs it; else it gets what is not divided.
        """
        state = optimizer.state_dict()
        if not self._parts:
            return state
        weights = [each for group in optimizer.param_groups for each in group["params"]]
        states = {
            place: {
                name: self._divided(weights[place], value) if isinstance(value, Tensor) else value
                for name, value in values.items()
            }
            for place, values in state["state"].items()
        }
        return {**state, "state": whole_values(states, kept=kept)}

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Restore the state of an optimizer of whole weights, of any number of processes.

        Args:
            optimizer: over `named`.
            state: its `state_dict`.
        """
        weights = [each for group in optimizer.param_groups for each in group["params"]]
        states = {place: self._parts_of(weights[place], values) for place, values in state["state"].items()}
        optimizer.load_state_dict({**state, "state": states})

    def _parts_of(self, part: Tensor, values: Mapping[str, Any]) -> dict[str, Any]:
        weight = self._whole.get(id(part))
        return {
            name: part_of(value, weight).clone()
            if weight is not None and isinstance(value, Tensor) and value.shape == weight.shape
            else value
            for name, value in values.items()
        }
