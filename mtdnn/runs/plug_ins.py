"""The plug-ins that a run names, from mixing and balance to regularizer and proximal; each with its options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from mtdnn.balancing.base import BALANCERS
from mtdnn.config.options import Named, named_faults, options_of
from mtdnn.config.run import RunConfig, run_config_of
from mtdnn.config.yaml_source import YamlSource
from mtdnn.data.samplers import SAMPLERS
from mtdnn.errors import ConfigError, Fault
from mtdnn.networks.adapters import ADAPTERS, adapter_faults
from mtdnn.registry import Registry
from mtdnn.training.optim import OPTIMIZERS, SCHEDULES
from mtdnn.training.trackers import tracker_faults

LIGHT_KEYS = ("mixing", "balance", "optimizer", "schedule", "adapter")
"""The keys of a run whose plug-ins load no PyTorch."""

KEYS = (*LIGHT_KEYS, "regularizer", "proximal")

PLACES = ("tasks", "data", "output", "encoder")
"""The keys that a run must have."""


def run_registry(key: str) -> Registry[Any]:
    """The plug-ins that a key of a run can name."""
    if key == "regularizer":
        from mtdnn.regularizers.base import REGULARIZERS

        return REGULARIZERS
    if key == "proximal":
        from mtdnn.regularizers.proximal import PROXIMAL

        return PROXIMAL
    light: dict[str, Registry[Any]] = {
        "mixing": SAMPLERS, "balance": BALANCERS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "adapter": ADAPTERS
    }  # fmt: skip
    return light[key]


def plug_in_faults(config: RunConfig) -> list[Fault]:
    """Errors of unknown names, unknown keys and invalid values of plug-ins, by the run's keys."""
    faults = [each for key, given in _named(config, KEYS) for each in named_faults(run_registry(key), given, key)]
    faults += tracker_faults(config.trackers)
    return faults + adapter_faults(config.adapter, freeze_encoder=config.freeze_encoder)


def checked_run(source: YamlSource) -> RunConfig:
    """The run in a document, with the options of its plug-ins checked.

    Raises:
        ConfigError: every error, with its place.
    """
    try:
        config = run_config_of(source)
    except ConfigError as error:
        raise ConfigError([*error.faults, *rest_faults(source, error)]) from error
    if faults := plug_in_faults(config):
        raise ConfigError([source.placed(each) for each in faults])
    return config


def rest_faults(source: YamlSource, refused: ConfigError) -> list[Fault]:
    """Errors in the plug-ins of a malformed run, apart from the values that were refused, each with its place.

    Args:
        source: the document.
        refused: raised by `run_config_of`.
    """
    if not isinstance(cause := refused.__cause__, ValidationError):
        return []
    rest = deepcopy(source.value)
    for detail in cause.errors():
        _remove(rest, detail["loc"])
    try:
        config = RunConfig.model_validate({**dict.fromkeys(PLACES, "unknown"), **rest})
    except ValidationError:  # what is left of a value is not valid without the rest
        return []
    return [source.placed(each) for each in plug_in_faults(config)]


def _remove(values: dict[str, Any], keys: Sequence[str | int]) -> None:
    """Remove the innermost value of a path from nested mappings, as far as the path leads through mappings."""
    holder, name = values, keys[0]
    for key in keys[1:]:
        inner = holder.get(str(name))
        if not isinstance(inner, dict):
            break
        if key in inner:
            holder, name = inner, key
    holder.pop(str(name), None)


def resolved(config: RunConfig, keys: Sequence[str] = KEYS) -> RunConfig:
    """The run with every option of its registered plug-ins, missing ones at their defaults.

    Plug-ins named by a dotted path, and those with invalid options, are left unchanged.
    """
    full = {}
    for key, given in _named(config, keys):
        registry = run_registry(key)
        if given.name in registry and not named_faults(registry, given, key):
            model = options_of(registry, registry.get(given.name))
            options = model.model_validate(given.options).model_dump(mode="json")
            full[key] = given.model_copy(update=options)
    return config.model_copy(update=full)


def _named(config: RunConfig, keys: Sequence[str]) -> Iterator[tuple[str, Named]]:
    """(key, plug-in) of the plug-ins that are not turned off."""
    chosen = ((key, getattr(config, key)) for key in keys)
    return ((key, given) for key, given in chosen if given is not None)
