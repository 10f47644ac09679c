"""One seed → named, independent streams of random numbers.

Every random draw of a run names its stream ("order", "dropout", "noise", …), so that additional draws from one stream
(by a regularizer, say) do not change the others. Nothing depends on Python's `hash` or on global random state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream `names`, the same in every process and on every machine."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stream called `names`."""
    import numpy as np

    return np.random.default_rng(derive_seed(seed, *names))


def torch_generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A PyTorch generator for the stream called `names`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


def seed_default_generators(seed: int, *names: str | int) -> None:
    """Seed PyTorch's default generators (CPU and accelerator) for the stream `names`.

    `nn.Dropout` draws from them and accepts no generator. The trainer calls this before each forward pass with
    ("dropout", step, …): the masks then depend on the seed and the step only, not on earlier draws.
    """
    import torch

    torch.manual_seed(derive_seed(seed, *names))


@contextmanager
def preserved_default_generators() -> Iterator[None]:
    """A context that restores the state of PyTorch's default generators when it ends."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


def default_generator_states() -> list[torch.Tensor]:
    """The states of PyTorch's default generators, for `restore_default_generators`."""
    import torch

    states = [torch.get_rng_state()]
    return states + (torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])


def restore_default_generators(states: Sequence[torch.Tensor]) -> None:
    """Set PyTorch's default generators to these states."""
    import torch

    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(list(states[1:]))
