"""The help of every command is for persons: no types of Python, every value and default in plain words."""

import re
from typing import Literal

import pytest

from mtdnn.cli.help import shown_fields, shown_values
from mtdnn.cli.main import COMMANDS, main
from mtdnn.config.run import RunConfig

OF_PYTHON = re.compile(r"\btype: |\bnull\]|\bdefault: |Literal|Optional|Union|NoneType|<class|\bstr\b|\bint\b|\bNone\b")


def help_of(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_no_types_of_python(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = help_of(name, capsys)
    assert OF_PYTHON.findall(text) == []
    assert text.startswith(f"usage: mtdnn {name} ")
    assert "flags of every command: --trust" in text


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("prepro", ["usage: mtdnn prepro DEFINITIONS --encoder ENCODER --out OUT [flags]",
                    "--workers N Processes, or parts",
                    "--launcher local|ray local = ", "a local Ray. [local]", "--merge Write", "rows. (required)"]),
        ("study", ["--gpus NUMBER GPUs", "at most 1. [0.0]", "--slurm FILE These options as a YAML file.",
                   "--slurm.time N Minutes"]),
        ("tune", ["--prune true|false Stop", "evaluation. [true]", "--trials N Trials"]),
        ("list", ["usage: mtdnn list KIND [flags]", "included: tasks, converters, types"]),
        ("average", ["usage: mtdnn average RUNS … --output OUTPUT [flags]"]),
        ("init", ["usage: mtdnn init [FOLDER] [flags]", "--from FILE File of rows"]),
        ("train", ["--epochs NUMBER Passes", "--train NAME,… Tasks", "--compile true|false torch.compile",
                   "--tasks PATH Task", "--evaluate_every N|epoch|never Steps", "--adapter.targets NAME,… Layers",
                   "--optimizer.betas [NUMBER, NUMBER] adamax", "--mixing NAME Order", "--subset {TASK: …} Task"]),
    ],
)  # fmt: skip
def test_help_shows_what_a_value_is(name, parts, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = help_of(name, capsys)
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize(
    ("hint", "shown"),
    [(int, "N"), (float | None, "NUMBER"), (bool, "true|false"), (str | None, "TEXT"), (Literal["a", "b"], "a|b")],
)
def test_a_type_is_shown_by_what_is_written(hint, shown):
    assert shown_values(hint) == shown


@pytest.mark.parametrize("key", RunConfig.model_fields)
def test_every_key_of_a_run_has_a_description_and_shows_its_values(key):
    field = RunConfig.model_fields[key]
    assert field.description and not field.description.startswith("Default")
    assert shown_fields([field])
