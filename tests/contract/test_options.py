"""Every registered plug-in that has options declares them, each with a description, and refuses any other key."""

import pytest

from mtdnn.balancing.base import BALANCERS
from mtdnn.cli.schema import fields_of
from mtdnn.config.options import Named, Options, named_faults, options_of
from mtdnn.config.run import OptimizerConfig, ScheduleConfig
from mtdnn.config.tasks import task_def_from
from mtdnn.data.samplers import SAMPLERS
from mtdnn.errors import ConfigError
from mtdnn.networks.adapters import ADAPTERS
from mtdnn.networks.head_options import HEAD_OPTIONS
from mtdnn.networks.heads import HEADS
from mtdnn.networks.losses import LOSSES
from mtdnn.regularizers.base import REGULARIZERS
from mtdnn.regularizers.proximal import PROXIMAL
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.optim import OPTIMIZERS, SCHEDULES

KINDS = {
    "balance": (BALANCERS, Named),
    "mixing": (SAMPLERS, Named),
    "optimizer": (OPTIMIZERS, OptimizerConfig),
    "schedule": (SCHEDULES, ScheduleConfig),
    "adapter": (ADAPTERS, Named),
    "regularizer": (REGULARIZERS, Named),
    "proximal": (PROXIMAL, Named),
    "head": (HEADS, Named),
}
NAMED = [(kind, name) for kind, (registry, _) in KINDS.items() for name in registry]


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_options_are_declared_with_a_description_and_a_default(kind, name):
    registry, block = KINDS[kind]
    model = options_of(registry, registry.get(name), block.model_fields)
    assert issubclass(model, Options)
    assert [key for key, field in fields_of(model) if not field.description] == []
    assert [key for key, field in model.model_fields.items() if field.is_required()] == []
    assert not set(model.model_fields) & set(block.model_fields)


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_a_key_that_it_does_not_have_is_refused(kind, name):
    registry, block = KINDS[kind]
    assert named_faults(registry, block(name=name), kind) == []
    (found,) = named_faults(registry, block(name=name, nosuch=1), kind)
    assert str(found).startswith(f"{kind}.nosuch: unknown key 'nosuch'; ")


LOSS_TYPES = [(name, loss) for name in TASK_TYPES for loss in TASK_TYPES.get(name).losses]


@pytest.mark.parametrize(("task_type", "loss"), LOSS_TYPES)
def test_a_loss_declares_its_options_and_refuses_other_keys(task_type, loss):
    model = options_of(LOSSES, LOSSES.get(loss))
    assert issubclass(model, Options)
    assert [key for key, field in fields_of(model) if not field.description] == []
    kind = TASK_TYPES.get(task_type)
    assert kind.faults(task_def_from("task", {**kind.sample_block, "loss": loss})) == []
    (found,) = kind.faults(task_def_from("task", {**kind.sample_block, "loss": {"name": loss, "nosuch": 1}}))
    assert str(found).startswith("task: task.loss.nosuch: unknown key 'nosuch'; ")


def test_a_metric_has_no_options():
    """What it demands of records is declared with it; a mapping in place of its name is refused."""
    with pytest.raises(
        ConfigError, match=r"task: task\.metrics\.0: {'name': 'f1', 'average': 'macro'}: expected a text"
    ):
        task_def_from(
            "task", {**TASK_TYPES.get("classification").sample_block, "metrics": [{"name": "f1", "average": "macro"}]}
        )


def test_every_registered_loss_belongs_to_a_type():
    assert {loss for _, loss in LOSS_TYPES} | {"soft_cross_entropy"} == set(LOSSES)


@pytest.mark.parametrize("name", list(TASK_TYPES))
def test_a_task_type_declares_its_keys_and_refuses_others(name):
    kind = TASK_TYPES.get(name)
    assert issubclass(kind.Options, Options)
    assert [key for key, field in fields_of(kind.Options) if not field.description] == []
    (found,) = kind.faults(task_def_from("task", {**kind.sample_block, "nosuch": 1}))
    assert str(found).startswith("task: task.nosuch: unknown key 'nosuch'; known: ")


def test_the_table_of_heads_that_check_reads_is_that_of_the_heads():
    """It is there so that `check` needs no PyTorch."""
    assert {name: options_of(HEADS, HEADS.get(name)) for name in HEADS} == HEAD_OPTIONS
