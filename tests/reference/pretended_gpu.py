"""A GPU that is pretended on the CPU, and that refuses to let the host wait for it.

Its tensors have the numbers of ordinary ones, and say that they are on a GPU: code takes the branches of a GPU, and its
results can be compared with those of the CPU. An operation between tensors on the device and on the host is an error,
as on a GPU. Nothing here needs CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any
from unittest import mock

import torch
from packaging.version import Version
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mtdnn.execution import ragged
from tests.reference.gpu_kernels import KERNELS, MADE_OF_OTHERS, Autocast, flex

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
TO, COPY = aten._to_copy.default, aten.copy_.default
READS = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.argwhere, aten.masked_select,
    aten.bincount, aten.unique_dim, aten._unique2, aten._unique, aten.unique_consecutive, aten.unique_dim_consecutive,
    aten.histc, aten.multinomial, aten.allclose,
}  # fmt: skip
"""Operations that read from the device; `multinomial` checks its probabilities there."""

NONDETERMINISTIC = {
    aten.cumsum, aten.cumprod, aten.nll_loss2d_forward, aten._ctc_loss, aten.histc, aten.bincount, aten.median,
    aten.kthvalue, aten.put, aten.put_, aten.upsample_linear1d_backward, aten.reflection_pad1d_backward,
    aten._adaptive_avg_pool2d_backward, aten.grid_sampler_2d_backward, aten.max_unpool2d, aten.scatter_reduce,
}  # fmt: skip
"""Operations without a deterministic algorithm on a GPU, the first two of floats: `torch.use_deterministic_algorithms`
refuses them, and a resumed run could not end with the same weights. Source: its documentation."""

WAITING = {"deberta-v2"}
"""Families whose code in transformers makes the host wait: it copies constants in every layer."""

if Version(version("transformers")) < Version("5.23"):  # 5.7 copies their masks, or distances of positions, each time
    WAITING |= {"mpnet", "t5", "mt5"}


class HostWaits(AssertionError):
    """The host would wait for the device here."""


class NoDeterministicAlgorithm(AssertionError):
    """With deterministic algorithms PyTorch would refuse this operation on a GPU."""


class OnGPU(torch.Tensor):
    """A tensor on the pretended device.

    To PyTorch's C++ it is on `meta`, for which autograd needs no queue and indexing no device to switch to.
    """

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> OnGPU:
        options = {"dtype": numbers.dtype, "layout": numbers.layout, "device": "meta"}
        made = torch.Tensor._make_wrapper_subclass(
            cls, numbers.size(), strides=numbers.stride(), storage_offset=numbers.storage_offset(), **options
        )
        made.numbers = numbers
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **options: Any) -> str:
        return f"OnGPU({list(self.shape)})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside the context of the pretended GPU")


class PretendedGPU(TorchDispatchMode):
    """While it is active, tensors may be put on the device `GPU`; HostWaits is raised where the host would wait for it.

    Copies from the host have to be asynchronous, and from pinned memory: from other memory the driver copies twice, and
    may wait for the device.

    Attributes:
        copies: number of asynchronous copies to or from the device.
        kernels: names of the kernels that were called, of those that only a GPU has.
        may_wait: whether the host may wait, as before the first step and where a run logs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0
        self.kernels: set[str] = set()
        self.may_wait = False
        self._pinned: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("pin_memory"):
            return self.pin(func(*args, **{**kwargs, "pin_memory": False}))
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        to_gpu = torch.device(kwargs.get("device") or "cpu").type in ("cuda", "meta")  # PyTorch's C++ says meta
        if not to_gpu and not any(isinstance(each, OnGPU) for each in tensors):
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():  # where operations made of others come here whole
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if func in MADE_OF_OTHERS:
            with self:
                return MADE_OF_OTHERS[func](*args, **kwargs)
        if func in (TO, COPY):
            return self._copied(func, args, kwargs)
        for each in tensors:
            if not isinstance(each, OnGPU) and each.dim() > 0:
                raise HostWaits(f"{func}: one of its tensors is on the host: {list(each.shape)}")
        if func.overloadpacket in NONDETERMINISTIC and (tensors[0].is_floating_point() or "cum" not in str(func)):
            raise NoDeterministicAlgorithm(str(func))
        self._require(func.overloadpacket not in READS, f"{func} reads from the device")
        self._require(not _counts_a_mask(func, args), f"{func} reads from the device how many elements a mask chooses")
        return self._computed(func, args, kwargs)

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The outcome on the device; what is written in place is the tensor that was given."""
        inner_args, inner_kwargs = tree_map(_numbers, (args, kwargs))
        if inner_kwargs.get("device") is not None:
            inner_kwargs["device"] = torch.device("cpu")
        if func in KERNELS:
            self.kernels.add(KERNELS[func].__name__)
        found = tree_map(_on_gpu, KERNELS.get(func, func)(*inner_args, **inner_kwargs))
        if not func._schema.returns:
            return None
        returned = list(found) if isinstance(found, (tuple, list)) and len(func._schema.returns) > 1 else [found]
        for place, expected in enumerate(func._schema.returns):
            if expected.alias_info is not None and expected.alias_info.is_write:
                returned[place] = _given(func, args, kwargs, expected.alias_info.before_set)
        return returned[0] if len(returned) == 1 else tuple(returned)

    def _copied(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The outcome of a copy from the host, to it, or within the device."""
        source = args[0] if func is TO else args[1]
        target = kwargs.get("device") or args[0].device
        from_host, to_host = not isinstance(source, OnGPU), torch.device(target).type == "cpu"
        if from_host or to_host:
            unwaiting = kwargs.get("non_blocking") or (func is COPY and args[2:] == (True,))
            self._require(unwaiting, f"a copy {'from' if from_host else 'to'} the host: {list(source.shape)}")
            if from_host and source.dim() > 0:
                self._require(self.is_pinned(source), f"a copy from memory that is not pinned: {list(source.shape)}")
            self.copies += 1
        if func is TO:
            copy = func(_numbers(source), **{**kwargs, "device": torch.device("cpu")})
            return copy if to_host else OnGPU(copy)
        func(*tree_map(_numbers, args))
        return args[0]

    def _require(self, holds: bool, otherwise: str) -> None:
        if not (holds or self.may_wait):
            raise HostWaits(otherwise)

    def pin(self, tensor: Tensor) -> Tensor:
        """The tensor, counted as pinned from now on."""
        if not self.is_pinned(tensor):
            tensor = tensor.clone()
            self._pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether the tensor's memory is pinned; a tensor of no elements has none to pin."""
        return tensor.numel() == 0 or tensor.untyped_storage().data_ptr() in self._pinned


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, OnGPU) else value


def _on_gpu(value: Any) -> Any:
    return OnGPU(value) if isinstance(value, Tensor) and not isinstance(value, OnGPU) else value


def _given(func: Any, args: Any, kwargs: Any, names: Any) -> Any:
    """The argument that the function writes to and returns."""
    for place, each in enumerate(func._schema.arguments):
        if each.alias_info is not None and each.alias_info.before_set == names:
            return args[place] if place < len(args) else kwargs[each.name]
    raise AssertionError(f"{func}: no argument {names}")


def _counts_a_mask(func: Any, args: Any) -> bool:
    """Whether this indexes with a mask; a single number is written where a mask is True without a count."""
    if func.overloadpacket not in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
        return False
    masks = any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    return masks and (func.overloadpacket is aten.index or args[2].numel() != 1)


class _NoEvent:
    """An event of a device that has always finished."""

    def __init__(self, **options: Any) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Generator(torch.Generator):
    """A generator of the host, wherever it is asked for."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, device="cpu")


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """A context in which there is a GPU."""
    gpu = PretendedGPU()
    with ExitStack() as changed:
        for place, name, value in (
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "Event", _NoEvent),
            (torch.cuda, "get_device_capability", lambda device=None: (8, 0)),
            (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (ragged, "_flex_attention", lambda device: flex),
            (torch, "Generator", _Generator),
            (torch.Tensor, "pin_memory", lambda tensor, device=None: gpu.pin(tensor)),
            (torch.Tensor, "is_pinned", lambda tensor, device=None: gpu.is_pinned(tensor)),
        ):
            changed.enter_context(mock.patch.object(place, name, value))
        changed.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # so that `torch.tensor(…, device=…)` shows its copy to the mode
        changed.enter_context(Autocast(OnGPU))
        yield changed.enter_context(gpu)


@contextmanager
def waiting_allowed(gpu: PretendedGPU) -> Iterator[None]:
    """A context in which the host may wait, as before the first step and where a run logs."""
    before, gpu.may_wait = gpu.may_wait, True
    try:
        yield
    finally:
        gpu.may_wait = before
