"""A key that the chosen plug-in does not have is refused in the same words wherever a run is given."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import mtdnn
from mtdnn.cli.main import main
from mtdnn.config.run import RunConfig, load_run_config
from mtdnn.errors import ConfigError
from mtdnn.runs.plug_ins import plug_in_faults, resolved
from mtdnn.runs.row_check import check
from mtdnn.study.load import load_study
from mtdnn.study.run import checked_cells

MISTAKES = {
    "optimizer.momentum": (
        0.9,
        "unknown key 'momentum'; known: name, lr, head_lr, weight_decay, layer_decay, betas, eps. "
        "It is an option of sgd.",
    ),
    "schedule.ratio": (5, "unknown key 'ratio'; known: name, warmup. It is an option of slanted_triangular."),
    "mixing.tau": (2, "unknown key 'tau'; known: turns, exhausted. It is an option of temperature."),
    "mixing.turn": ("equal", "unknown key 'turn'; known: turns, exhausted. Did you mean 'turns'?"),
    "optimizer.betas.1": ([0.9, 1.5], "1.5: input should be less than 1. Give another value."),
    "proximal.bta": (
        0.9,
        "unknown key 'bta'; known: mu, inner_steps, start_after, beta, beta_late, late_after, half_life. Did you mean "
        "'beta'?",
    ),
    "regularizer.xi": (
        1,
        "unknown key 'xi'; known: weight, every. It is an option of vat.",
    ),
}
"""Key that is reported → value given under its first two words, and what is found; with the run's other words below."""

WORDS = {"mixing": "round_robin", "proximal": "momentum", "regularizer": "r_drop"}


def given(key: str, value: Any) -> dict[str, Any]:
    """A block of a run's YAML that holds the mistake."""
    block, option = key.split(".")[:2]
    named = {"name": WORDS[block]} if block in WORDS else {}
    return {block: {**named, option: value}}


@pytest.fixture
def places(project, encoder) -> dict[str, str]:
    return {"tasks": str(project.definitions), "data": str(project.out), "encoder": str(encoder), "output": "run"}


@pytest.mark.parametrize("key", MISTAKES)
def test_a_mistake_is_reported_with_its_line_by_check_and_train(key, project, places, tmp_path, capsys):
    value, found = MISTAKES[key]
    run = tmp_path / "run.yml"
    block = json.dumps(given(key, value))[1:-1]  # JSON is YAML, and on one line
    run.write_text(yaml.safe_dump(places, sort_keys=False) + block)
    line = f"{run}:5: {key}: {found}"
    assert line in map(str, check(project.definitions, data=project.data, run=run, num_workers=1).faults)
    with pytest.raises(ConfigError) as caught:
        mtdnn.train(run)
    assert caught.value.lines == (line,)
    assert main(["train", str(run)]) == 2
    assert line in capsys.readouterr().err


MALFORMED = """\
tasks: {tasks}
data: prepared
encoder: {encoder}
epochs: yes
optimizer: {{lr: x, betaz: 3}}
mixing: {{name: temperature, tauu: 3}}
regularizer: {{name: smart, espilon: 3}}
schedule: {{warmup: true}}
early_stopping: {{patience: 0}}
"""


def test_options_of_plug_ins_are_checked_though_other_values_are_malformed(project, encoder, tmp_path, capsys):
    run = tmp_path / "run.yml"
    run.write_text(MALFORMED.format(tasks=project.definitions, encoder=encoder))
    assert main(["train", str(run)]) == 2
    by_train = capsys.readouterr().err.splitlines()
    starts = [
        "run.yml: output: is missing.",
        "run.yml:4: epochs: true (or yes, on): expected a number.",
        "run.yml:5: optimizer.lr: 'x': expected a number.",
        "run.yml:9: early_stopping.patience: 0: input should be greater",
        "run.yml:6: mixing.tauu: unknown key 'tauu'; known: tau.",
        "run.yml:5: optimizer.betaz: unknown key 'betaz';",
        "run.yml:8: schedule.warmup: true (or yes, on): expected a number.",
        "run.yml:7: regularizer.espilon: unknown key 'espilon';",
    ]
    assert len(by_train) == len(starts)
    assert [
        start for start, line in zip(starts, by_train, strict=True) if not line.startswith(f"{tmp_path}/{start}")
    ] == []
    by_check = list(map(str, check(project.definitions, run=run).faults))
    assert [line for line in by_train if line not in by_check] == []


def test_a_key_of_transformers_within_a_block_is_explained(places):
    with pytest.raises(ConfigError) as caught:
        mtdnn.train(**places, optimizer={"learning_rate": 1e-5})
    assert caught.value.lines == ("train(): optimizer.learning_rate: unknown key 'learning_rate'. Did you mean 'lr'?",)
    with pytest.raises(ConfigError) as caught:
        mtdnn.train(**places, learning_rate=1e-5)
    assert caught.value.lines == ("train(): unknown keyword 'learning_rate'. Did you mean 'optimizer.lr'?",)


@pytest.mark.parametrize("key", MISTAKES)
def test_a_mistake_is_reported_by_its_flag_or_keyword(key, places, capsys):
    value, found = MISTAKES[key]
    option = ".".join(key.split(".")[:2])
    words = [*(f"--{block}={word}" for block, word in WORDS.items()), f"--{option}", json.dumps(value)]
    assert main(["train", *(f"--{name}={place}" for name, place in places.items()), *words]) == 2
    place = f"--{option}" if option == key else f"--{option}: {key}"
    assert f"{place}: {found}" in capsys.readouterr().err
    with pytest.raises(ConfigError) as caught:
        mtdnn.train(**places, **given(key, value))
    assert caught.value.lines == (f"train(): {key}: {found}",)


@pytest.mark.parametrize("key", MISTAKES)
def test_a_mistake_in_a_study_is_reported_before_any_cell_runs(key, places, tmp_path):
    value, found = MISTAKES[key]
    study = {
        "output": str(tmp_path / "study"),
        "run": {name: place for name, place in places.items() if name != "output"},
        "stages": {"only": {"axes": {"way": {"good": {}, "bad": given(key, value)}, "seed": [1, 2]}}},
    }
    path = tmp_path / "study.yml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        checked_cells(load_study(path))
    (line,) = caught.value.lines
    assert re.sub(r"(?<=study\.yml):\d+", "", line) == f"{path}: only (way bad, seed 1): {key}: {found}"
    assert not (tmp_path / "study").exists()


def test_unknown_names_and_all_mistakes_come_in_one_report(places):
    words = {"optimizer": "adamv", "schedule": {"name": "cosin"}, "mixing": "round_robbin", "proximal.mu": -1}
    config = load_run_config(None, {**places, "proximal": "momentum", **words})
    assert [str(each).split("; known")[0] for each in plug_in_faults(config)] == [
        "mixing: unknown mixing 'round_robbin'",
        "optimizer: unknown optimizer 'adamv'",
        "schedule: unknown schedule 'cosin'",
        "proximal.mu: -1: input should be greater than or equal to 0. Give another value, or leave it out for the "
        "default, 1.0.",
    ]


def test_a_resolved_run_holds_the_options_of_its_own_plug_ins_and_no_others(places):
    config = resolved(RunConfig(**places, optimizer={"name": "sgd", "momentum": "0.5"}, schedule="slanted_triangular"))
    assert config.optimizer.model_dump() == {
        "name": "sgd", "lr": 5e-5, "head_lr": None, "weight_decay": 0.01, "layer_decay": 1.0, "momentum": 0.5,
    }  # fmt: skip
    assert config.schedule.model_dump() == {"name": "slanted_triangular", "cut_fraction": 0.1, "ratio": 32.0}
    assert config.mixing.model_dump() == {"name": "round_robin", "turns": "proportional", "exhausted": None}
    assert resolved(config) == config and config.regularizer is None


def test_what_cannot_be_resolved_stays_as_it_is_given(places):
    """An imported plug-in might hold anything, and a faulty option is reported elsewhere."""
    given_run = RunConfig(**places, optimizer="torch.optim.NAdam", mixing={"name": "temperature", "tau": -1})
    config = resolved(given_run, ("optimizer", "mixing"))
    assert (config.optimizer, config.mixing) == (given_run.optimizer, given_run.mixing)


def test_a_run_folder_holds_only_the_options_of_the_chosen_names(places, tmp_path: Path):
    from mtdnn.runs.folder import RunFolder

    config = RunConfig(**{**places, "output": str(tmp_path / "run")}, optimizer="sgd")
    folder = RunFolder(config.output)
    folder.claim(config, {}, resume=False)
    written = yaml.safe_load(folder.config_file.read_text())
    assert set(written["optimizer"]) == {"name", "lr", "head_lr", "weight_decay", "layer_decay", "momentum"}
    assert written["schedule"] == {"name": "linear", "warmup": 0.1}
    folder.claim(RunConfig(**config.model_dump() | {"schedule": {"warmup": 0.1}}), {}, resume=True)
    with pytest.raises(ConfigError, match=r"optimizer\.momentum: the run started with 0\.0, now it is 0\.9"):
        folder.claim(
            RunConfig(**config.model_dump() | {"optimizer": {"name": "sgd", "momentum": 0.9}}), {}, resume=True
        )
