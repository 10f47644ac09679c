"""What a plan says of a run is what the run does: rows, steps, examples, cost, and what it measures."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version
from torch import Tensor

from mtdnn.cli.study_commands import plan_of, study
from mtdnn.config.options import Named
from mtdnn.config.run import RunConfig, load_run_config
from mtdnn.config.tasks import TaskDef, load_task_defs
from mtdnn.errors import ConfigError, MtdnnError, fault
from mtdnn.regularizers.base import Regularizer
from mtdnn.regularizers.forward_pass import ForwardPass
from mtdnn.runs.length import needs_lengths, run_length
from mtdnn.runs.parts import train_stores
from mtdnn.study.checks import require_planned_tasks, require_prepared, require_runnable, stored_rows
from mtdnn.study.grid import Cell, write_study_files
from mtdnn.study.launchers import Here
from mtdnn.study.load import load_study
from mtdnn.study.run import train_cell
from mtdnn.study.scheduler import run_cells
from mtdnn.study.size import cell_size, row_costs, run_size
from mtdnn.tokens.loading import load_tokenizer
from tests.conftest import Demo

PAIR = ("demo_nli", "demo_similarity")

without_torch = pytest.mark.skipif(
    Version(version("transformers")) < Version("5.23"), reason="transformers 5.7 loads PyTorch to read a config.json"
)


def run_of(demo: Demo, **values: Any) -> tuple[RunConfig, dict[str, TaskDef]]:
    config = load_run_config(None, demo.run_values(Path("run"), **values))
    tasks = load_task_defs(demo.tasks)
    return config, {name: tasks[name] for name in config.train or ()}


def carried_out(demo: Demo, config: RunConfig, tasks: dict[str, TaskDef]) -> tuple[int, int]:
    """Steps and examples of the run, counted batch by batch."""
    tokenizer = load_tokenizer(str(demo.encoder))
    stores, available = train_stores(config, tasks, tokenizer)
    lengths = {name: store.lengths for name, store in stores.items()} if needs_lengths(config) else None
    length = run_length(config, tasks, available, lengths)
    sampler, examples, epoch = length.sampler, 0, 0
    steps = left = length.steps
    while left:
        sampler.set_epoch(epoch)
        sizes = [len(step.rows) for step, _ in zip(sampler, range(left), strict=False)]
        examples, left, epoch = examples + sum(sizes), left - len(sizes), epoch + 1
    return steps, examples


@pytest.mark.parametrize(
    "values",
    [
        {"train": PAIR},
        {"train": PAIR, "epochs": 2.5},
        {"train": PAIR, "max_steps": 7},
        {"train": PAIR, "mixing": {"name": "annealed"}, "max_steps": 20},
        {"train": PAIR, "max_tokens": 200},
        {"train": PAIR, "max_tokens": 200, "group_by_length": 4, "epochs": 3},
        {"train": PAIR[:1], "max_tokens": 150, "subset": {"demo_nli": {"fraction": 0.5, "seed": 3}}},
        {"train": PAIR, "group_by_length": 4},
    ],
    ids=lambda values: " ".join(f"{key} {value}" for key, value in values.items() if key != "train") or "plain",
)
def test_a_plan_has_the_steps_of_the_run_and_nearly_its_examples(demo: Demo, values: dict[str, Any]) -> None:
    config, tasks = run_of(demo, **values)
    size = run_size(config, tasks)
    steps, examples = carried_out(demo, config, tasks)
    assert size.steps == steps
    whole_epochs = config.max_steps is None and config.epochs % 1 == 0
    # of a part of an epoch the mean size of its batches is counted, which are few here
    assert size.examples == (examples if whole_epochs else pytest.approx(examples, rel=0.1))


class Silent(Regularizer):
    """Tells no cost."""

    name = "silent"

    def penalty(self, forward_pass: ForwardPass) -> Tensor:
        return forward_pass.logits.square().mean()


@pytest.mark.parametrize(
    ("values", "blocks", "costs"),
    [
        ({}, {}, (3, 3)),
        ({"proximal": "momentum"}, {}, (4, 4)),
        ({"regularizer": "smart"}, {}, (8, 8)),
        ({"regularizer": {"name": "smart", "every": 2}, "proximal": "momentum"}, {}, (6.5, 6.5)),
        ({"regularizer": "r_drop"}, {}, (6, 6)),
        ({"regularizer": {"name": "r_drop", "weight": 0}}, {}, (3, 3)),
        ({"regularizer": "smart"}, {"demo_nli": "none", "demo_similarity": "r_drop"}, (3, 6)),
        ({}, {"demo_similarity": "vat"}, (3, 8)),
    ],
)
def test_a_row_costs_what_its_tasks_own_method_does(
    demo: Demo, values: dict[str, Any], blocks: dict[str, str], costs: tuple[float, float]
) -> None:
    """Forward 1, backward 2, backward to the input 1, as each method's file counts them."""
    config, tasks = run_of(demo, train=PAIR, **values)
    for name, word in blocks.items():
        tasks[name] = tasks[name].model_copy(update={"regularizer": Named(name=word)})
    found = row_costs(config, tasks)
    assert found == dict(zip(PAIR, costs, strict=True))
    assert run_size(config, tasks).units == pytest.approx(2 * 60 * sum(costs))  # two epochs of 60 rows each


@pytest.mark.usefixtures("files_may_name_code")
def test_a_method_that_reports_no_cost_leaves_the_time_unknown(demo: Demo) -> None:
    config, tasks = run_of(demo, train=PAIR, regularizer=f"{__name__}.Silent")
    assert run_size(config, tasks).units is None


@pytest.mark.parametrize(
    ("word", "reported"),
    [
        ("test", r"demo_nli/blind: is not prepared, but evaluate: test needs it. Run: mtdnn prepro .* Or remove it"),
        ("blind", r"demo_nli/blind: is not prepared, but evaluate: blind needs it."),
        ("tset", r"stages.only: evaluate: unknown split 'tset'; known: .* Did you mean 'test'\?"),
    ],
)
def test_what_cannot_be_measured_is_reported_before_the_run(
    demo: Demo, tmp_path: Path, word: str, reported: str
) -> None:
    cell = cell_that_evaluates(demo, tmp_path, word)
    for attempt in (lambda: train_cell(cell), lambda: plan_of([cell])):
        with pytest.raises(MtdnnError, match=reported):
            attempt()
    assert not cell.run_folder.exists()


@pytest.mark.parametrize("word", ["dev", "train"])
def test_what_can_be_measured_is_let_through(demo: Demo, tmp_path: Path, word: str) -> None:
    require_prepared(cell_that_evaluates(demo, tmp_path, word))


def test_a_cell_is_not_trained_with_definitions_that_changed_after_the_plan(demo: Demo, tmp_path: Path) -> None:
    """Its results would be stored under the hash of the old ones. Tasks of other cells may change."""
    values, tasks = demo.run_values(tmp_path), tmp_path / "tasks.yml"
    blocks = yaml.safe_load(Path(values["tasks"]).read_text())
    tasks.write_text(yaml.safe_dump(blocks))
    run = {**{key: value for key, value in values.items() if key != "output"}, "tasks": str(tasks)}
    study = tmp_path / "study.yml"
    stages = {"only": {"run": {"train": ["demo_nli"]}, "axes": {"seed": [1]}}}
    study.write_text(yaml.safe_dump({"output": str(tmp_path / "study"), "run": run, "stages": stages}))
    cell = load_study(study).cells[0]
    blocks["demo_similarity"]["metrics"] = ["spearman"]
    tasks.write_text(yaml.safe_dump(blocks))
    require_planned_tasks(cell)
    blocks["demo_nli"]["metrics"] = ["accuracy", "macro_f1"]
    tasks.write_text(yaml.safe_dump(blocks))
    with pytest.raises(ConfigError, match=r"tasks\.yml: demo_nli: is no longer what it was .* Start the study again"):
        train_cell(cell)
    assert not cell.run_folder.exists()


def cell_that_evaluates(demo: Demo, folder: Path, word: str) -> Cell:
    """A cell of demo_nli with a test split, `blind`, that is not prepared."""
    run = {key: value for key, value in demo.run_values(folder).items() if key != "output"}
    blocks = {"tasks.demo_nli.splits": {"train": "train", "dev": "dev", "test": "blind"}, "train": ["demo_nli"]}
    stages = {"only": {"run": blocks, "axes": {"seed": [1]}, "evaluate": word}}
    path = folder / "study.yml"
    path.write_text(yaml.safe_dump({"output": str(folder / "study"), "run": run, "stages": stages}))
    grid = load_study(path)
    write_study_files(grid)
    return grid.cells[0]


def write_small_study(demo: Demo, folder: Path) -> Path:
    """A study of two cells, one a task, whose data and encoder are variables."""
    values = demo.run_values(folder)
    given = {name: str(values[name]) for name in ("data", "encoder")}
    run = {
        **{key: value for key, value in values.items() if key != "output"},
        **{name: f"${{{name}}}" for name in given},
    }
    stages = {"only": {"run": {"max_steps": 1}, "axes": {"train": [["demo_nli"], ["demo_similarity"]]}}}
    path = folder / "study.yml"
    path.write_text(yaml.safe_dump({"output": str(folder / "study"), "variables": given, "run": run, "stages": stages}))
    return path


def made_up_score(cell: Cell) -> dict[str, Any]:
    return {"results": {task: {"dev": {"accuracy": 0.5}} for task in cell.config.train or ()}, "rows": {}}


def test_a_split_that_no_task_of_a_stage_has_is_reported_with_its_line(demo: Demo, tmp_path: Path) -> None:
    path = write_small_study(demo, tmp_path)
    path.write_text(path.read_text().replace("only:", "only:\n    evaluate: tset"))
    with pytest.raises(MtdnnError, match=r"study.yml:\d+: stages.only.evaluate: unknown split 'tset'; known: dev, "):
        study(str(path), dry_run=True)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_misspelt_option_of_one_cell_is_reported_before_any_runs(demo: Demo, tmp_path: Path, dry_run: bool) -> None:
    path = write_small_study(demo, tmp_path)
    typo = "{regularizer: {name: smart, epsilonn: 1}, proximal: {name: momentum, mu: -1}}"
    path.write_text(path.read_text().replace("axes:", f"axes:\n      method: {{plain: {{}}, wrong: {typo}}}"))
    with pytest.raises(ConfigError) as reported:
        study(str(path), dry_run=dry_run)
    values = r"study.yml:\d+: only \(method wrong, train \[\"demo_nli\"\]\): "
    option, mu = reported.value.lines
    assert re.search(values + "regularizer.epsilonn: unknown key 'epsilonn'; .* Did you mean 'epsilon'", option)
    assert re.search(values + "proximal.mu: -1: ", mu)
    assert not (tmp_path / "study").exists()


def test_a_fault_of_a_finished_cell_stops_nothing(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_small_study(demo, tmp_path)
    path.write_text(path.read_text().replace("max_steps: 1", "max_steps: 1\n      regularizer: smart"))
    run_cells(load_study(path), Here(made_up_score), progress=False)
    refused = [fault("", "", "refused by a later version")]
    monkeypatch.setattr(Regularizer, "type_faults", classmethod(lambda cls, *place: refused))
    assert "2 of 2 cells finished" in study(str(path))


@pytest.mark.parametrize("before", [False, True], ids=["", "finished by an earlier version"])
def test_finished_cells_whose_rows_have_changed_are_named_and_not_run_again(
    demo: Demo, tmp_path: Path, caplog: pytest.LogCaptureFixture, before: bool
) -> None:
    shutil.copytree(demo.prepared, tmp_path / "prepared")
    path, data = write_small_study(demo, tmp_path), str(tmp_path / "prepared")

    def as_train_cell_tells(cell: Cell) -> dict[str, Any]:
        rows = {"rows": dict(cell_size(cell).rows), **({} if before else {"stored_rows": stored_rows(cell)})}
        return {**made_up_score(cell), **rows}

    cells = load_study(path, variables={"data": data}).cells
    run_cells(load_study(path, variables={"data": data}), Here(as_train_cell_tells), progress=False)
    study(str(path), data=data)
    assert not caplog.messages
    manifest = tmp_path / "prepared" / "demo_nli" / "train" / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "rows": values["rows"] + 1, "source": {"sha256": "f" * 64}}))
    assert "2 of 2 cells finished, 2 of them before" in study(str(path), data=data)
    (reported,) = caplog.messages
    place = "demo_nli" if before else "demo_nli/train"
    assert f"{data}: {place}: the rows have changed since these cells were finished: {cells[0].name}." in reported
    assert cells[1].name not in reported


def test_a_dry_run_shows_finished_cells_whose_rows_are_not_prepared_any_more(demo: Demo, tmp_path: Path) -> None:
    path = write_small_study(demo, tmp_path)
    reported = {"rows": {"demo_nli": 60}, "steps": 8, "examples": 120}
    run_cells(load_study(path, variables={"data": "gone"}), Here(lambda cell: {**made_up_score(cell), **reported}))
    lines = study(str(path), data="gone", dry_run=True).splitlines()
    assert [line.split()[1:] for line in lines[1:3]] == [["60", "8", "120", "finished"]] * 2
    assert lines[-1].startswith("2 cells, 0 to run, 0 examples")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({"data": "nosuch"}, r"nosuch/demo_nli/train: is not prepared. Run: mtdnn prepro"),
        ({"encoder": "./nosuch"}, r"encoder: there is no folder './nosuch'"),
    ],
)
def test_a_call_none_of_whose_cells_can_run_writes_nothing(
    demo: Demo, tmp_path: Path, given: dict[str, Any], reported: str
) -> None:
    path = write_small_study(demo, tmp_path)
    run_cells(load_study(path), Here(made_up_score), progress=False)
    before = files_of(tmp_path / "study")
    with pytest.raises(MtdnnError, match=reported):
        study(str(path), **given)
    assert files_of(tmp_path / "study") == before


def test_cells_that_can_run_are_not_held_back_by_others(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "demo_nli").symlink_to(demo.prepared / "demo_nli")
    require_runnable(
        load_study(write_small_study(demo, tmp_path), variables={"data": str(tmp_path / "prepared")}).cells
    )


@without_torch
def test_a_dry_run_without_regularizers_loads_no_torch(demo: Demo, tmp_path: Path) -> None:
    stages = {"only": {"axes": {"seed": [1]}}}
    run = {key: value for key, value in demo.run_values(tmp_path).items() if key != "output"}
    (tmp_path / "study.yml").write_text(yaml.safe_dump({"output": "study", "run": run, "stages": stages}))
    code = "import sys; from mtdnn.cli.study_commands import study\n"
    code += f"print(study({str(tmp_path / 'study.yml')!r}, dry_run=True, rate=10))\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "1 to run, 480 examples; time of one process after another: about 48 s\nFalse" in done.stdout


COUNTING = """
import os, sys
from collections import Counter
opened = Counter()
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        opened[arguments[0]] += 1
sys.addaudithook(note)
from mtdnn.cli.main import main
status = main(["study", sys.argv[1], "--dry_run"])
print({name: count for name, count in opened.items() if name.endswith((".yml", ".json", ".arrow"))})
print(status, "torch" in sys.modules)
"""


@without_torch
@pytest.mark.parametrize(
    "values",
    [{}, {"max_tokens": 200, "subset": {"demo_nli": {"fraction": 0.5}}}],
    ids=["by rows", "by tokens"],
)
def test_a_dry_run_reads_each_file_once_and_loads_no_torch(demo: Demo, tmp_path: Path, values: dict[str, Any]) -> None:
    """Fifty cells, the first two of them finished; definitions and prepared rows are those of every one."""
    path = tmp_path / "study.yml"
    stages = {"fine": {"axes": {"seed": list(range(25)), "train": [["demo_nli"], ["demo_nli", "demo_target"]]}}}
    run = {"tasks": str(demo.tasks), "data": str(demo.prepared), "encoder": str(demo.encoder), **values}
    path.write_text(yaml.safe_dump({"output": str(tmp_path / "study"), "run": run, "stages": stages}))
    grid = load_study(path)
    run_cells(grid, Here(made_up_score), cells=grid.cells[:2], progress=False)
    done = subprocess.run([sys.executable, "-c", COUNTING, str(path)], capture_output=True, text=True, check=True)
    *_, counts, last = done.stdout.splitlines()
    read = ast.literal_eval(counts)
    ours = {name: count for name, count in read.items() if name.startswith(str(tmp_path)) or "demo" in name}
    ours = {name: count for name, count in ours.items() if not name.startswith(str(demo.encoder))}  # other libraries'
    assert last == "0 False" and "50 cells, 48 to run" in done.stdout
    assert set(ours.values()) == {1}
    arrow = 2 if values else 0
    assert Counter(Path(name).suffix for name in ours) == {".yml": 2, ".json": 4} | ({".arrow": arrow} if arrow else {})
