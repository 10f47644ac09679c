"""Names of settings of transformers lead to the key that is the same setting here: as key, keyword, flag or option."""

import re

import pytest

from mtdnn.cli.schema import fields_of, option_keys
from mtdnn.config.other_names import ELSEWHERE, KEYS, KEYS_OF_A_TASK, ours
from mtdnn.config.run import RunConfig, load_run_config
from mtdnn.config.task import TaskDef
from mtdnn.config.tasks import task_def_from
from mtdnn.errors import ConfigError
from mtdnn.runs.plug_ins import LIGHT_KEYS
from mtdnn.task_types.multilabel import Multilabel
from tests.conftest import REPOSITORY

PLACES = {"tasks": "t.yml", "data": "d", "encoder": "e", "output": "o"}


@pytest.mark.parametrize("name", KEYS)
def test_every_key_that_is_suggested_is_one_of_a_run(name):
    known = {key for key, _ in fields_of(RunConfig)} | {key for key, *_ in option_keys(LIGHT_KEYS)}
    assert KEYS[name].split(":")[0] in known


@pytest.mark.parametrize("name", [*KEYS, *ELSEWHERE])
def test_no_name_is_a_key_of_a_run(name):
    assert name not in RunConfig.model_fields
    assert ours(name)


def test_keys_of_a_task_are_explained_in_a_run():
    elsewhere = {"name", "options", "max_length", *RunConfig.model_fields}
    assert TaskDef.model_fields.keys() - elsewhere <= {*KEYS_OF_A_TASK}


def test_the_page_for_users_of_run_glue_says_the_same():
    text = (REPOSITORY / "docs" / "from_run_glue.md").read_text(encoding="utf-8").split("## Flags")[1]
    lines = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `--")]
    on_page = {name: here for flags, here in lines for name in re.findall(r"--(\w+)", flags)}
    for name in KEYS.keys() & on_page.keys():
        block, _, option = KEYS[name].split(":")[0].partition(".")
        assert re.search(rf"\b{option or block}\b", on_page[name]), name
    assert len(KEYS.keys() & on_page.keys()) > 25
    assert "max_length" in on_page["max_seq_length"] and "max_length" in TaskDef.model_fields


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("learning_rate", 1e-5, "--learning_rate: unknown key 'learning_rate'. Did you mean 'optimizer.lr'?"),
        ("fp16", True, "--fp16: unknown key 'fp16'. Did you mean 'precision: fp16'?"),
        ("max_seq_length", 128, "--max_seq_length: unknown key 'max_seq_length'. It is `max_length` of a task, "),
        ("head", "pooled", "--head: unknown key 'head'. It is `head` of a task, in the task definitions."),
        ("warmup", 0.1, "--warmup: unknown key 'warmup'. Did you mean 'schedule.warmup'?"),
        (
            "dry_run",
            True,
            "--dry_run: unknown key 'dry_run'. It is a command of its own: mtdnn check TASKS --run RUN.yml.",
        ),
    ],
)
def test_a_key_of_a_file_is_explained(key, value, line):
    with pytest.raises(ConfigError) as caught:
        load_run_config(None, {**PLACES, key: value})
    (found,) = caught.value.lines
    assert found.replace("keyword", "key").startswith(line)


def test_a_key_with_dots_in_a_file_is_written_as_a_block(tmp_path):
    path = tmp_path / "run.yml"
    path.write_text("tasks: t\ndata: d\nencoder: e\noutput: o\noptimizer.lr: 1e-4\ntasks.nli.dropout: 0.3\n")
    with pytest.raises(ConfigError) as caught:
        load_run_config(path)
    assert [line.split(": ", 1)[1] for line in caught.value.lines] == [
        "optimizer.lr: unknown key 'optimizer.lr'. Keys with dots are for flags and studies; "
        "write it as a block: `optimizer: {lr: …}`.",
        "tasks.nli.dropout: unknown key 'tasks.nli.dropout'. Options of a task are in the task definitions; "
        "only a study takes them with dots.",
    ]


def test_a_keyword_is_explained():
    with pytest.raises(ConfigError) as caught:
        RunConfig(**PLACES, num_train_epochs=3)
    assert caught.value.lines == (
        "RunConfig(): num_train_epochs: unknown keyword 'num_train_epochs'. Did you mean 'epochs'?",
    )


def test_a_key_of_other_types_of_tasks_is_not_referred_to_the_definitions_it_is_in():
    assert ours("class_weights", within="tasks") == ours("label_smoothing", within="tasks") == ""
    assert ours("learning_rate", within="tasks") == " Did you mean 'optimizer.lr'?"
    assert ours("max_seq_length", within="tasks").startswith(" It is `max_length` of a task")
    (found,) = Multilabel.faults(task_def_from("set", {**Multilabel.sample_block, "class_weights": "balanced"}))
    assert str(found).startswith("set: set.class_weights: unknown key 'class_weights'; known: task_type, inputs, ")


def test_within_a_block_only_its_own_keys_are_suggested():
    assert ours("learning_rate", within="optimizer") == " Did you mean 'lr'?"
    assert ours("warmup_ratio", within="schedule") == " Did you mean 'warmup'?"
    assert ours("learning_rate", within="schedule") == ours("max_seq_length", within="optimizer") == ""
    assert ours("warmup", within="schedule") == ""
    assert ours("nothing_like_it") == ""
