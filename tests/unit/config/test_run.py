"""A run's YAML and its overrides become one frozen RunConfig; every fault has its line or its flag."""

import pydantic
import pytest

from mtdnn.config.options import Named
from mtdnn.config.run import EncoderSource, RunConfig, load_run_config, run_config_from_yaml
from mtdnn.errors import ConfigError

RUN = """\
tasks: tasks.yml
data: prepared
output: runs/a
encoder: bert
optimizer:
  lr: 1e-4
regularizer: {name: smart, weight: 3}
mixing: temperature
"""


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run.yml"
    path.write_text(RUN, encoding="utf-8")
    return path


def faults_of(path, overrides):
    with pytest.raises(ConfigError) as caught:
        load_run_config(path, overrides)
    return [line.replace(f"{path}", "run.yml") for line in caught.value.lines]


def test_a_run_is_read_and_defaults_fill_the_rest(run):
    config = load_run_config(run)
    assert (config.encoder, config.optimizer.lr, config.optimizer.name) == ("bert", 1e-4, "adamw")
    assert (config.seed, config.epochs, config.batch_size, config.clip_norm) == (1, 3, 32, 1.0)
    assert config.regularizer.options == {"weight": 3}
    assert config.mixing.name == "temperature"
    assert config.proximal is None


def test_a_run_survives_writing_and_reading(run):
    config = load_run_config(run, {"encoder.run": "runs/b", "train": ["x", "y"], "early_stopping.patience": 2})
    assert run_config_from_yaml(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("overrides", "check"),
    [
        ({"optimizer.lr": 3e-5}, lambda config: config.optimizer.lr == 3e-5),
        ({"optimizer": {"name": "sgd"}}, lambda config: config.optimizer.lr == 5e-5),
        ({"optimizer": "sgd"}, lambda config: config.optimizer.name == "sgd" and config.optimizer.options == {}),
        ({"optimizer.momentum": 0.9}, lambda config: config.optimizer.options == {"momentum": 0.9}),
        ({"schedule": "cosine", "schedule.warmup": 0}, lambda config: config.schedule.options == {"warmup": 0}),
        ({"regularizer.weight": 1}, lambda config: config.regularizer.model_dump() == {"name": "smart", "weight": 1}),
        ({"regularizer": "r_drop"}, lambda config: config.regularizer.model_dump() == {"name": "r_drop"}),
        ({"regularizer": "none"}, lambda config: config.regularizer is None),
        ({"regularizer": {"name": "none"}}, lambda config: config.regularizer is None),
        ({"proximal": {"name": "none"}}, lambda config: config.proximal is None),
        ({"mixing.tau": 2}, lambda config: config.mixing.model_dump() == {"name": "temperature", "tau": 2}),
        ({"mixing": {"turns": "equal"}}, lambda config: config.mixing == Named(name="round_robin", turns="equal")),
        ({"balance.weights": {"x": 2}}, lambda config: config.balance == Named(name="fixed", weights={"x": 2})),
        ({"encoder.run": "runs/b"}, lambda config: config.encoder == EncoderSource(run="runs/b")),
        ({"train": ["x"]}, lambda config: config.train == ("x",)),
        ({"clip_norm": None}, lambda config: config.clip_norm is None),
    ],
)
def test_an_override_replaces_what_the_file_says(run, overrides, check):
    assert check(load_run_config(run, overrides))


def test_overrides_alone_make_a_run():
    config = load_run_config(None, {"tasks": "t.yml", "data": "d", "output": "o", "encoder": "e"})
    assert config == RunConfig(tasks="t.yml", data="d", output="o", encoder="e")


def test_a_run_does_not_change(run):
    with pytest.raises(pydantic.ValidationError):
        load_run_config(run).seed = 2


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"optimizer.lr": "fast"}, "--optimizer.lr: 'fast': expected a number"),
        ({"optimizer": {"lr": -1}}, "--optimizer: optimizer.lr: -1: input should be greater than 0"),
        ({"epochs": 0}, "--epochs: 0: input should be greater than 0"),
        ({"epochs": float("inf")}, "--epochs: inf: input should be a finite number"),
        ({"epochs": float("nan")}, "--epochs: nan: input should be a finite number"),
        (
            {"regularizer": {"name": "none", "weight": 3}},
            "--regularizer: {'name': 'none', 'weight': 3}: none turns it off and has no options; remove weight, "
            "or give another name",
        ),
        (
            {"regularizer": ["smart"]},
            "--regularizer: ['smart']: expected a name, or {name: …} with its options",
        ),
        ({"mixing": 3}, "--mixing: 3: expected a name, or {name: …} with its options"),
        (
            {"evaluate_every": 0},
            "--evaluate_every: 0: not an interval; give at least 1 step, epoch or never",
        ),
        ({"precision": "fp8"}, "--precision: 'fp8': input should be 'float32', 'bf16' or 'fp16'"),
        (
            {"tasks": {"rte": {"dropout": 0.2}}},
            "--tasks: {'rte': {'dropout': 0.2}}: is a YAML file; the options of a task are in its block there",
        ),
        ({"seed.a": 1}, "--seed.a: seed: {'a': 1}: expected a whole number"),
    ],
)
def test_a_fault_of_a_flag_is_reported_by_the_flag(run, overrides, line):
    assert faults_of(run, overrides)[0].startswith(line)


def test_all_faults_of_a_file_are_reported_with_their_lines(run):
    run.write_text(RUN.replace("1e-4", "fast").replace("encoder", "encodr") + "checkpoint_every: -5\n")
    assert [line.split(": ")[0] for line in faults_of(run, {})] == ["run.yml", "run.yml:6", "run.yml:9", "run.yml:4"]


def test_a_key_below_a_number_is_refused(run):
    run.write_text(RUN + "epochs: 3\n")
    assert faults_of(run, {"epochs.more": 1}) == [
        "--epochs.more: epochs is 3, not a mapping. Give --epochs as a whole."
    ]


def test_without_a_file_missing_keys_are_reported():
    assert faults_of(None, {"tasks": "t.yml", "data": "d", "output": "o"}) == [
        "command line: encoder: is missing. Add it."
    ]


@pytest.mark.parametrize(
    ("key", "value", "reported"),
    [
        ("optimizer.lr", float("inf"), "--optimizer.lr: inf: input should be a finite number"),
        ("optimizer.head_lr", float("inf"), "--optimizer.head_lr: inf: input should be a finite number"),
        ("optimizer.weight_decay", float("inf"), "--optimizer.weight_decay: inf: input should be a finite number"),
        ("early_stopping.min_delta", float("inf"), "--early_stopping.min_delta: inf: input should be a finite number"),
        ("clip_norm", float("inf"), "--clip_norm: inf: input should be a finite number"),
        ("epochs", float("nan"), "--epochs: nan: input should be a finite number"),
        ("threads", 2**31, "--threads: 2147483648: input should be less than or equal to 1024"),  # PyTorch takes an int
        ("train", [], "--train: []: is empty; leave it out to train on all tasks"),
    ],
)
def test_numbers_out_of_range_and_no_tasks_are_refused(key: str, value: object, reported: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(None, {"tasks": "t", "data": "d", "output": "o", "encoder": "e", key: value})
    assert reported in str(caught.value)


def test_a_word_of_execution_is_its_layout_and_flags_change_one_switch(tmp_path):
    path = tmp_path / "run.yml"
    path.write_text("tasks: t\ndata: d\noutput: o\nencoder: e\nexecution: padded\n")
    found = load_run_config(path, {"execution.dropout": "torch"}).execution
    assert (found.layout, found.dropout, found.products) == ("padded", "torch", "fast")
    assert (found.attention, found.deterministic) == ("auto", False)
    with pytest.raises(ConfigError, match=r"run.yml:5: execution: 'paked'"):
        path.write_text("tasks: t\ndata: d\noutput: o\nencoder: e\nexecution: paked\n")
        load_run_config(path)
