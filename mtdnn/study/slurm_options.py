"""The options of a study's jobs on a SLURM cluster; light to import, as they are flags of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any

from mtdnn.errors import ConfigError, Fault, fault, unknown

JOB_NAME = "mtdnn-study"

LOWEST = {"time": 3, "mem": 0.1, "cpus_per_task": 1, "requeue": 0}
"""Option → its smallest number."""


@dataclass(frozen=True)
class SlurmOptions:
    """What each job of a study asks SLURM for, in sbatch's words.

    Args:
        partition: Partition of the jobs.
        account: Account that is charged.
        qos: Quality of service.
        constraint: Features that a node must have.
        exclude: Nodes that are not used, as in node[1-3].
        time: Minutes of each job; a cell that needs longer writes a checkpoint and is put back into the queue.
        mem: GB of memory of each job.
        cpus_per_task: CPUs of each job.
        requeue: How often a cell may be put back into the queue when its time is up.
        setup: Shell command that is run before each job, such as `module load cuda`.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    time: int = 240
    mem: float | None = None
    cpus_per_task: int = 1
    requeue: int = 10
    setup: str | None = None

    @classmethod
    def of(cls, values: SlurmOptions | Mapping[str, Any] | None) -> SlurmOptions:
        """The options, of which a mapping names some. Raises ConfigError for unknown names and impossible numbers."""
        if isinstance(values, SlurmOptions):
            values = asdict(values)
        known = [each.name for each in fields(cls)]
        faults = [
            fault("", f"slurm.{name}", unknown("option", name, known)) for name in values or () if name not in known
        ]
        if faults:
            raise ConfigError(faults)
        found = cls(**(values or {}))
        faults = [each for name, least in LOWEST.items() for each in _number_faults(name, found, least)]
        faults += [each for name in known if name not in LOWEST for each in _text_faults(name, getattr(found, name))]
        if faults:
            raise ConfigError(faults)
        return found

    def parameters(self, *, gpus: int) -> dict[str, Any]:
        """The parameters for submitit's AutoExecutor."""
        words = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint", "exclude")}
        given = {f"slurm_{name}": value for name, value in words.items() if value is not None}
        return {
            **given,
            **({} if self.mem is None else {"mem_gb": self.mem}),
            **({"gpus_per_node": gpus} if gpus else {}),
            **({} if self.setup is None else {"slurm_setup": [self.setup]}),
            "name": JOB_NAME,
            "timeout_min": self.time,
            "cpus_per_task": self.cpus_per_task,
            "slurm_additional_parameters": {"requeue": True},  # after the failure of a node
        }


def _text_faults(name: str, value: Any) -> list[Fault]:
    """The error if an option is given and no text."""
    if isinstance(value, (str, NoneType)):
        return []
    return [fault("", f"slurm.{name}", f"{value!r}: expected a text", "Give one, or leave it out.")]


def _number_faults(name: str, options: SlurmOptions, least: float) -> list[Fault]:
    """The error if an option is no number, or too small; all but the memory are whole numbers.

    Args:
        name: of the option.
        options: have its value.
        least: its smallest number.
    """
    value, fix = getattr(options, name), f"Give {least:g} or more."
    kinds = (int, float, NoneType) if name == "mem" else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds):
        wanted = "a number" if name == "mem" else "a whole number"
        return [fault("", f"slurm.{name}", f"{value!r}: expected {wanted}", fix)]
    is_small = value is not None and value < least
    return [fault("", f"slurm.{name}", f"{value:g} is too small", fix)] if is_small else []
