"""Adapters by peft, one for all tasks or one for each: few trained weights in a frozen encoder.

An adapter is added to the encoder's linear layers, whose own weights are frozen. The registry and the options need
neither PyTorch nor peft, so that `check` and `--help` do not import them.

Source: LoRA, Hu et al. 2021, arXiv 2106.09685; DoRA, Liu et al. 2024, arXiv 2402.09353; IA³, Liu et al. 2022,
arXiv 2205.05638. All by the package peft.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from mtdnn.config.options import Named, Options, option_values, options_of, takes_options
from mtdnn.config.words import Words
from mtdnn.deferred import deferred
from mtdnn.errors import ConfigError, Fault, fault, first_line
from mtdnn.registry import Registry
from mtdnn.seeding import preserved_default_generators, seed_default_generators

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import Tensor, nn
else:
    torch = deferred("torch")
    nn = deferred("torch.nn")

SHARED = "shared"
"""The name of an adapter that all tasks share."""

MakeConfig = Callable[..., "PeftConfig"]

ADAPTERS: Registry[MakeConfig] = Registry("adapter", takes=("targets",), keywords=("family",))
"""The names for `adapter:` in a run. Each returns peft's configuration for the targets; None: peft's for the family."""


class AdapterOptions(Options):
    """Options of every adapter."""

    targets: Literal["auto"] | Words = Field(
        "auto", description="Layers, by the ends of their names. auto: peft's for the family, else all linear ones."
    )
    scope: Literal["shared", "task"] = Field(
        "shared", description="task: one adapter for each task, selected by the batch's task."
    )


class LowRankOptions(AdapterOptions):
    """Options of `lora` and `dora`."""

    rank: int = Field(
        8, ge=1, description="r, columns of the two matrices whose product is added to a layer's weights."
    )
    alpha: float = Field(16.0, gt=0, description="Factor of that product, times r.")
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout on the input of the two matrices; 0 turns it off.")


@ADAPTERS.register("lora")
@takes_options(LowRankOptions)
def lora(targets: Sequence[str] | None, *, family: str, rank: int, alpha: float, dropout: float) -> PeftConfig:
    """LoRA: adds the product of two trained matrices of rank r to a layer's weights.

    Args:
        targets: ends of the names of layers.
        family: `model_type` of the encoder.
        rank, alpha, dropout: see `LowRankOptions`.
    """
    return _low_rank(targets, rank=rank, alpha=alpha, dropout=dropout)


@ADAPTERS.register("dora")
@takes_options(LowRankOptions)
def dora(targets: Sequence[str] | None, *, family: str, rank: int, alpha: float, dropout: float) -> PeftConfig:
    """DoRA: LoRA for the direction of each column of a layer's weights, and a trained length for each.

    Args:
        targets: ends of the names of layers.
        family: `model_type` of the encoder.
        rank, alpha, dropout: see `LowRankOptions`.
    """
    return _low_rank(targets, rank=rank, alpha=alpha, dropout=dropout, use_dora=True)


def _low_rank(
    targets: Sequence[str] | None, *, rank: int, alpha: float, dropout: float, use_dora: bool = False
) -> PeftConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=_listed(targets),
        use_dora=use_dora,
    )


@ADAPTERS.register("ia3")
@takes_options(AdapterOptions)
def ia3(targets: Sequence[str] | None, *, family: str) -> PeftConfig:
    """IA³: multiplies the output of layers (in feed-forward blocks the input) by a trained vector.

    Args:
        targets: ends of the names of layers.
        family: `model_type` of the encoder.
    """
    from peft import IA3Config
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as OF_FAMILY

    forward = [each for each in OF_FAMILY.get(family, []) if targets is None or each in targets]
    return IA3Config(target_modules=_listed(targets), feedforward_modules=forward)


def _listed(targets: Sequence[str] | None) -> list[str] | None:
    return None if targets is None else list(targets)


@dataclass(frozen=True)
class Adapter:
    """An adapter of an encoder.

    Attributes:
        named: the adapter and its options.
        tasks: the tasks that have one each, with `scope: task`.
    """

    named: Named
    tasks: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters in the encoder: the tasks, or the shared one."""
        return self.tasks if self.per_task else (SHARED,)

    @property
    def per_task(self) -> bool:
        """Whether each task has one."""
        return bool(self.options["scope"] == "task")

    @property
    def options(self) -> dict[str, Any]:
        """Every option, with defaults for those not given."""
        return option_values(options_of(ADAPTERS, ADAPTERS.get(self.named.name, key="adapter")), self.named.options)

    def block(self) -> dict[str, Any]:
        """The adapter as in YAML, with every option, as JSON values."""
        options = {key: list(each) if isinstance(each, tuple) else each for key, each in self.options.items()}
        return {"name": self.named.name, **options}


def adapter_faults(named: Named | None, *, freeze_encoder: bool = False) -> list[Fault]:
    """The errors in a run's adapter, apart from its options.

    Args:
        named: the adapter; None: the run has none.
        freeze_encoder: the run's key of that name.
    """
    faults = []
    if named is not None and find_spec("peft") is None:
        fix = "Install it: pip install 'mtdnn[adapters]'."
        faults.append(fault("", "adapter", f"'{named.name}' needs the package peft, which is not installed", fix))
    if named is not None and freeze_encoder:
        found = "true trains the heads only, and so no adapter"
        faults.append(fault("", "freeze_encoder", found, "Leave it out: the encoder's own weights are frozen anyway."))
    return faults


def put_into(backbone: nn.Module, adapter: Adapter, *, seed: int) -> None:
    """Freeze a model's weights and add adapters to its linear layers, in place; at first the outputs are unchanged.

    The initial weights of an adapter depend on the seed and its name, not on other adapters.

    Args:
        backbone: a model of transformers.
        adapter: the kind of adapter, and its tasks.
        seed: for the adapters' initial weights.
    Raises:
        ConfigError: peft is not installed, or the model has no such targets.
    """
    if faults := adapter_faults(adapter.named):
        raise ConfigError(faults)
    from peft import inject_adapter_in_model

    for name in adapter.names:
        with preserved_default_generators(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns that it sets fan_in_fan_out where needed
            seed_default_generators(seed, "adapter", name)
            try:
                inject_adapter_in_model(_peft_config(backbone, adapter), backbone, name)
            except ValueError as error:
                fix = "Give the ends of the names of linear layers, or targets: auto."
                raise ConfigError(fault("", "adapter.targets", first_line(error), fix)) from error
    backbone.requires_grad_(False)
    own = own_weights(backbone)
    for key, weight in backbone.named_parameters():
        weight.requires_grad_(key in own)


def _peft_config(backbone: nn.Module, adapter: Adapter) -> PeftConfig:
    options = dict(adapter.options)
    options.pop("scope")
    targets = options.pop("targets")
    family = str(backbone.config.model_type)  # type: ignore[union-attr]
    make = ADAPTERS.get(adapter.named.name, key="adapter")
    if targets == "auto":
        targets = None if _known_to_peft(family, adapter.named.name) else sorted(_linear_layers(backbone))
    return make(targets, family=family, **options)


def _known_to_peft(family: str, name: str) -> bool:
    from peft.utils import constants

    of_ia3 = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    of_lora = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    return family in (of_ia3 if name == "ia3" else of_lora)


def _linear_layers(backbone: nn.Module) -> set[str]:
    """Last parts of the names of the linear layers, without those of existing adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = (name for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear) and "lora_" not in name)
    tuned = (name for name, layer in backbone.named_modules() if isinstance(layer, BaseTunerLayer))
    return {name.removesuffix(".base_layer").rpartition(".")[2] for name in (*plain, *tuned)}


def _tuned_layers(backbone: nn.Module) -> Iterator[tuple[str, BaseTunerLayer]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return ((name, layer) for name, layer in backbone.named_modules() if isinstance(layer, BaseTunerLayer))


def own_weights(backbone: nn.Module) -> set[str]:
    """Names of the weights that belong to adapters."""
    return {
        f"{name}.{key}"
        for name, layer in _tuned_layers(backbone)
        for key, _ in cast(nn.Module, layer).named_parameters()
        if not key.startswith("base_layer.")
    }


def use(backbone: nn.Module, name: str) -> None:
    """Activate the adapter of that name in all layers; none if there is no such adapter.

    peft's `set_adapter` would also freeze the others, and make this one trainable in a teacher.
    """
    for _, layer in _tuned_layers(backbone):
        layer._active_adapter = [name]


def mixes(backbone: nn.Module) -> bool:
    """Whether several adapters can be used in one pass: peft does so for plain LoRA."""
    from peft.tuners.lora.layer import LoraLayer

    return all(isinstance(layer, LoraLayer) and not layer.lora_variant for _, layer in _tuned_layers(backbone))


@contextmanager
def mixed(backbone: nn.Module, names: Sequence[str], order: Tensor) -> Iterator[None]:
    """A context in which one pass uses several adapters, each for its part of the tokens; for prediction only.

    Every layer gets its tokens as one row per part, and peft the name of each row's adapter.

    Args:
        backbone: a model for which `mixes`.
        names: of the adapters, for the parts in their order.
        order: [parts · tokens] long, places of the tokens of the first part, of the second, …; others are not computed.
    """

    def by_part(layer: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
        (given,) = inputs
        shapes.append(given.shape)
        rows = given.flatten(0, -2).index_select(0, order)
        return (rows.unflatten(0, (len(names), -1)),), {**options, "adapter_names": list(names)}

    def as_given(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        shape = (*shapes.pop()[:-1], output.shape[-1])
        found = output.new_zeros(shape).flatten(0, -2)
        return found.index_copy(0, order, output.flatten(0, 1)).view(shape)

    shapes: list[torch.Size] = []
    layers = [cast(nn.Module, layer) for _, layer in _tuned_layers(backbone)]
    handles = [layer.register_forward_pre_hook(by_part, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(as_given) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def merged(backbone: nn.Module, name: str) -> dict[str, Tensor]:
    """The weights of a model without adapters that is equal to this one with the adapter of that name."""
    copied = deepcopy(backbone)
    for _, layer in _tuned_layers(copied):
        layer.merge(safe_merge=True, adapter_names=[name])
    return plain_weights(copied)


def plain_weights(backbone: nn.Module) -> dict[str, Tensor]:
    """The weights of the layers without adapters, named as in a model without adapters."""
    own = own_weights(backbone)
    state = backbone.state_dict()
    return {key.replace(".base_layer.", "."): value for key, value in state.items() if key not in own}


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values of weights, whatever files they were read from."""
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
