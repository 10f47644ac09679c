"""How long a run is, asked by check, by a dry run and by training: one answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import yaml

from mtdnn.batch import Batch
from mtdnn.cli.main import main
from mtdnn.config.run import RunConfig, load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare
from mtdnn.errors import ConfigError
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.length import run_length, training_rows
from mtdnn.runs.row_check import check
from mtdnn.runs.setup import Setup
from mtdnn.study.size import run_size
from tests.conftest import Demo

PAIR = ["demo_nli", "demo_target"]

MIXINGS: list[Any] = [
    "round_robin",
    {"name": "round_robin", "turns": "equal", "exhausted": "drop"},
    {"name": "round_robin", "turns": "equal", "exhausted": "restart"},
    {"name": "round_robin", "turns": "equal", "exhausted": "stop"},
    "proportional",
    "sequential",
    "uniform",
    {"name": "temperature", "tau": 3},
    "annealed",
    {"name": "main_ratio", "ratio": 0.7},
]
SUBSETS: list[dict[str, Any]] = [
    {},
    {"demo_nli": {"rows": 17}},
    {"demo_nli": {"fraction": 0.29, "seed": 3}, "demo_target": {"rows": 2}},
]
MAX_ROWS = [None, 33]
LENGTHS: list[dict[str, Any]] = [{"epochs": 2}, {"epochs": 2.4}, {"epochs": 0.3}, {"max_steps": 7}]
BATCHES: list[dict[str, Any]] = [
    {},
    {"max_tokens": 200},
    {"group_by_length": 2},
    {"max_tokens": 200, "group_by_length": 3},
]
ACCUMULATE = [1, 3]
PRODUCT = list(product(MIXINGS, SUBSETS, MAX_ROWS, LENGTHS, BATCHES, ACCUMULATE))


def case(number: int) -> Any:
    """One of the product, named by its values."""
    mixing, subset, max_rows, length, batches, accumulate = PRODUCT[number]
    values = {"mixing": mixing, "subset": subset, "accumulate": accumulate, **length, **batches}
    return pytest.param(values, max_rows, id=re.sub(r"[^\w.]+", "-", f"{PRODUCT[number]}").strip("-"))


def stepped(setup: Setup, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The tasks of the steps that the trainer takes, epoch by epoch; weights stay, as they change no step."""
    trainer = setup.trainer(RunFolder(folder))
    taken: list[list[str]] = []

    def noted(parts: Sequence[Batch]) -> None:
        taken.extend([] for _ in range(trainer.progress.epoch + 1 - len(taken)))
        taken[-1].append(parts[0].task)
        trainer._advance()

    monkeypatch.setattr(trainer, "train_step", noted)
    monkeypatch.setattr(trainer, "save", lambda kind, trainer: None)
    trainer.train()
    return taken


# A step at which four in five pairs of values come: all 1,920 would take a quarter of an hour.
@pytest.mark.parametrize(("values", "max_rows"), [case(number) for number in range(0, len(PRODUCT), 69)])
def test_check_dry_run_and_training_agree(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], max_rows: int | None
) -> None:
    """Rows, batches of the first epoch, steps: those of the rows, of the manifests, and what the trainer then does."""
    blocks = yaml.safe_load(demo.tasks.read_text())
    blocks["demo_target"]["max_rows"] = max_rows
    tasks, run = tmp_path / "tasks.yml", tmp_path / "run.yml"
    tasks.write_text(yaml.safe_dump({name: blocks[name] for name in PAIR}))
    given = demo.run_values(tmp_path / "run", tasks=str(tasks), train=PAIR, evaluate_every="never", **values)
    config = load_run_config(None, given)
    run.write_text(config.to_yaml())
    setup = Setup.of(config)
    size = run_size(config, {name: setup.tasks[name] for name in PAIR})
    by_rows = check(tasks, data=demo.data, encoder=str(demo.encoder), run=run, num_workers=1)
    by_manifests = check(tasks, run=run)
    taken = stepped(setup, tmp_path / "run", monkeypatch)
    assert by_rows.faults == by_manifests.faults == []
    assert by_rows.length is not None and by_manifests.length is not None
    assert by_rows.length.rows == by_manifests.length.rows == size.rows
    assert size.rows == {name: len(store) for name, store in setup.train_stores.items()}
    assert by_rows.length.steps == by_manifests.length.steps == size.steps == sum(map(len, taken))
    assert by_rows.batches == by_manifests.batches == setup.sampler.batches_per_task(0)
    if len(taken) > 1 or size.steps == sum(by_rows.batches.values()):
        assert {name: taken[0].count(name) for name in PAIR} == by_rows.batches
    passes = len(taken) - 1 + len(taken[-1]) / setup.sampler.num_steps(len(taken) - 1)
    assert by_rows.length.epochs == pytest.approx(passes, abs=0.03 if values.get("max_tokens") else 1e-9)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("subset: {demo_nli: {rows: 10000}}", "subset.demo_nli.rows: 10000 of 60 rows. Give 1 to 60."),
        (
            "subset: {demo_nli: {fraction: 0.01}}",
            "subset.demo_nli.fraction: 0.01 of 60 rows is less than one row. Give 0.0167 to 1.",
        ),
        (
            "subset: {demo_target: {rows: 3}}",
            "subset: unknown task 'demo_target'; known: demo_nli.",
        ),
        (
            "select_by: demo_nil",
            "select_by: unknown task 'demo_nil'; known: mean, demo_nli. Did you mean 'demo_nli'?",
        ),
        (
            "max_tokens: 9",
            "max_tokens: 9 is less than the longest row of demo_nli, 19 tokens.",
        ),
        (
            "mixing: main_ratio",
            "mixing: main_ratio has no task to add to 'demo_nli'.",
        ),
        (
            "proximal: {name: momentum, start_after: 6}",
            "proximal.start_after: 6 steps, and the run has 6: the term would never act. Give fewer, or "
            "{fraction: number below 1}, or remove proximal.",
        ),
        (
            "proximal: {start_after: '1e3', name: momentum}",
            "proximal.start_after: 1000 steps, and the run has 6: the term would never act. Give fewer, or "
            "{fraction: number below 1}, or remove proximal.",
        ),
    ],
    ids=lambda words: words.split(":")[0],
)
def test_a_run_that_cannot_be_is_refused_alike_everywhere(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, line: str
) -> None:
    run, study = tmp_path / "run.yml", tmp_path / "study.yml"
    text = f"tasks: {demo.tasks}\ndata: {demo.prepared}\nencoder: {demo.encoder}\n"
    text += f"train: [demo_nli]\n{words}\n"
    run.write_text(f"{text}output: {tmp_path / 'run'}\n")
    stages = f"stages: {{fine: {{axes: {{seed: [1]}}}}}}\noutput: {tmp_path / 'study'}\n"
    study.write_text(f"run:\n{indent(text, '  ')}{stages}")
    check = ["check", str(demo.tasks), "--run", str(run)]
    for command in (check, [*check, "--data", str(demo.data)], ["train", str(run)]):
        assert main(command) == 2
        assert f"{run}:5: {line}" in capsys.readouterr().err
    for command in (["study", str(study), "--dry_run"], ["study", str(study)]):
        assert main(command) == 2
        assert f"{study}:6: fine (seed 1): {line}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not (tmp_path / "study" / "cells").exists()


def test_a_flag_that_asks_for_too_many_rows_is_named(demo: Demo, tmp_path: Path, capsys: Any) -> None:
    places = demo.run_values(tmp_path / "run", **{"train": "demo_nli", "subset.demo_nli.rows": 61})
    assert main(["train", *(word for key, value in places.items() for word in (f"--{key}", str(value)))]) == 2
    assert capsys.readouterr().err.strip() == "--subset.demo_nli.rows: 61 of 60 rows. Give 1 to 60."


@pytest.fixture
def several(demo: Demo, tmp_path: Path) -> Path:
    """A folder with a task whose train rows lie in two splits, one of them its dev split too; prepared."""
    task = yaml.safe_load(demo.tasks.read_text())["demo_nli"]
    task["splits"] = {"dev": "late", "train": ["early", "late"]}
    (tmp_path / "tasks.yml").write_text(yaml.safe_dump({"nli": task}))
    (tmp_path / "data" / "nli").mkdir(parents=True)
    lines = (demo.data / "demo_nli" / "train.tsv").read_text().splitlines(keepends=True)
    lines.sort(key=len)  # so that the order of the two matters to batches by tokens
    for name, part in (("early", lines[:20]), ("late", lines[20:])):
        (tmp_path / "data" / "nli" / f"{name}.tsv").write_text("".join(part))
    prepare(tmp_path / "tasks.yml", data=tmp_path / "data", encoder=demo.encoder, out=tmp_path / "prepared")
    return tmp_path


def run_on(several: Path, demo: Demo, **values: Any) -> Path:
    """The YAML of a run on its rows."""
    places = {"tasks": str(several / "tasks.yml"), "data": str(several / "prepared")}
    config = load_run_config(None, demo.run_values(several / "run", **places, **values))
    (several / "run.yml").write_text(config.to_yaml())
    return several / "run.yml"


@pytest.mark.parametrize("subset", [{}, {"nli": {"rows": 30, "seed": 2}}], ids=["all", "part"])
def test_rows_of_several_splits_are_counted_in_the_order_of_training(
    several: Path, demo: Demo, subset: dict[str, Any]
) -> None:
    run = run_on(several, demo, max_tokens=97, subset=subset, epochs=5)
    by_rows = check(several / "tasks.yml", data=several / "data", encoder=demo.encoder, run=run, num_workers=1)
    setup = Setup.of(load_run_config(run))
    assert by_rows.length is not None and by_rows.length.steps == setup.plan.total_steps
    assert by_rows.batches == setup.sampler.batches_per_task(0)


def test_lengths_in_words_give_no_batches_by_tokens(several: Path, demo: Demo) -> None:
    values = yaml.safe_load(run_on(several, demo, max_tokens=97).read_text())
    run = RunConfig(**{**values, "encoder": {"run": "earlier"}})
    report = check(several / "tasks.yml", data=several / "data", run=run, num_workers=1)
    assert (report.batches, report.length) == ({}, None)
    assert [each.found for each in report.faults] == ["earlier/best: there is no such checkpoint"]
    assert "max_tokens: batches are counted only with a tokenizer. Give --encoder." in map(str, report.warnings)


def test_nothing_is_said_of_sizes_where_rows_have_faults(several: Path, demo: Demo) -> None:
    with (several / "data" / "nli" / "early.tsv").open("a") as file:
        file.write("last\tperhaps\tIt rains.\tIt pours.\n")
    run = run_on(several, demo, subset={"nli": {"rows": 61}})  # there are 61, one to be mended
    report = check(several / "tasks.yml", data=several / "data", run=run, num_workers=1)
    assert [each.key for each in report.faults] == ["label"]
    assert (report.batches, report.length) == ({}, None)


def test_a_block_that_cannot_be_read_is_no_unknown_task(several: Path, demo: Demo) -> None:
    blocks = yaml.safe_load((several / "tasks.yml").read_text())
    blocks["broken"] = {"task_type": "regression", "dropout": 3}
    (several / "tasks.yml").write_text(yaml.safe_dump(blocks))
    run = run_on(several, demo, train=["broken", "nli"], subset={"broken": {"rows": 1}}, select_by="broken")
    report = check(several / "tasks.yml", data=several / "data", run=run, num_workers=1)
    assert [each.key for each in report.faults] == ["broken.dropout"]


def test_without_a_run_there_are_batches_and_no_steps(several: Path) -> None:
    report = check(several / "tasks.yml", data=several / "data", num_workers=1)
    assert (report.batches, report.length) == ({"nli": 2}, None)  # 60 rows in batches of 32
    assert "steps of the run" not in str(report)


def test_the_least_fraction_that_is_named_leaves_a_row(demo: Demo) -> None:
    tasks = {"demo_nli": load_task_defs(demo.tasks)["demo_nli"]}
    for rows in (3, 7, 60, 120, 999, 123_457):
        values = demo.run_values(Path("run"), train=["demo_nli"])
        config = load_run_config(None, {**values, "subset.demo_nli.fraction": 1e-9})
        with pytest.raises(ConfigError) as caught:
            run_length(config, tasks, {"demo_nli": rows})
        least = float(str(caught.value).split("Give ")[1].split(" to")[0])
        named = load_run_config(None, {**values, "subset.demo_nli.fraction": least})
        assert training_rows(named, tasks["demo_nli"], rows) == 1
