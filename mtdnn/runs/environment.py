"""Settings that `accelerate launch` gives a process by environment variables, and that a run has in its own YAML."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mtdnn.config.run import RunConfig
from mtdnn.errors import ConfigError, Fault, fault

OFF = ("", "no", "none", "0", "false", "f", "n", "off")
"""Values, in lower case, by which accelerate sets a variable to nothing; it always sets some of them so."""


@dataclass(frozen=True)
class Setting:
    """A variable of accelerate's.

    Attributes:
        off: whether a value asks for nothing.
        agrees: whether the run does what a value asks for.
        ours: what the run does.
        fix: what to write in the run's YAML for that value.
    """

    agrees: Callable[[RunConfig, str], bool]
    ours: Callable[[RunConfig], str]
    fix: Callable[[RunConfig, str], str]
    off: Callable[[str], bool] = lambda value: value.lower() in OFF


def _accumulation_fix(config: RunConfig, value: str) -> str:
    """accelerate adds up batches, `accumulate` splits one: the batch has to grow for the same update."""
    if not value.isdigit():
        return "Write accumulate with a whole number."
    batch = "" if config.max_tokens else f"batch_size: {config.batch_size * int(value)} and "
    return f"Write {batch}accumulate: {value}, as `accumulate` splits a batch."


def _precision_fix(config: RunConfig, value: str) -> str:
    known = value.lower() in ("bf16", "fp16")
    return f"Write precision: {value.lower()}." if known else "There are precision: float32, bf16 and fp16."


def _sharding(config: RunConfig) -> str:
    return f"the run has sharding: {config.sharding}"


def _never(config: RunConfig, value: str) -> bool:
    return False


SHARDED = Setting(
    _never,
    _sharding,
    lambda config, value: (
        "Write sharding: full, by which processes divide the weights; gradient_checkpointing: true saves memory too."
    ),
)
SETTINGS: Mapping[str, Setting] = {
    "ACCELERATE_MIXED_PRECISION": Setting(
        lambda config, value: value.lower() == config.precision,
        lambda config: f"the run has precision: {config.precision}",
        _precision_fix,
    ),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": Setting(
        lambda config, value: value == str(config.accumulate),
        lambda config: f"the run has accumulate: {config.accumulate}",
        _accumulation_fix,
        off=lambda value: value.lower() in (*OFF, "1", "auto"),
    ),
    "ACCELERATE_GRADIENT_CLIPPING": Setting(
        lambda config, value: config.clip_norm is not None and value == f"{config.clip_norm:g}",
        lambda config: f"the run has clip_norm: {'null' if config.clip_norm is None else f'{config.clip_norm:g}'}",
        lambda config, value: f"Write clip_norm: {value}.",
        off=lambda value: value.lower() in (*OFF, "auto"),
    ),
    "ACCELERATE_DYNAMO_BACKEND": Setting(
        lambda config, value: config.compile and value.lower() == "inductor",
        lambda config: f"the run has compile: {str(config.compile).lower()}",
        lambda config, value: "Write compile: true, which compiles by inductor.",
    ),
    "ACCELERATE_USE_FSDP": SHARDED,
    "ACCELERATE_USE_DEEPSPEED": SHARDED,
    "ACCELERATE_USE_MEGATRON_LM": SHARDED,
    "ACCELERATE_USE_PARALLELISM_CONFIG": SHARDED,
}


def refuse_other_settings(config: RunConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Raise if accelerate is set to do what a run does not, so that no setting is ignored.

    Args:
        config: the run.
        environment: its variables.
    Raises:
        ConfigError: every variable that the run contradicts, with what the run does and what to write in its YAML.
    """
    if found := setting_faults(config, environment):
        raise ConfigError(found)


def setting_faults(config: RunConfig, environment: Mapping[str, str]) -> list[Fault]:
    """The errors of `refuse_other_settings`."""
    given = {name: environment.get(name, "").strip() for name in SETTINGS}
    return [
        fault(
            name, "", f"'{value}' is not taken from accelerate: {setting.ours(config)}",
            f"{setting.fix(config, value)} Then leave this setting out of accelerate's command and configuration.",
        )
        for name, setting in SETTINGS.items()
        if not setting.off(value := given[name]) and not setting.agrees(config, value)
    ]  # fmt: skip
