"""`import mtdnn`: the names it offers, what it loads, the examples in its docstrings, what a wrong keyword says."""

import doctest
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
import yaml
from datasets import Dataset

import mtdnn
from mtdnn.runs.setup import Setup
from tests.reference.stranger import COUNTS, rows_of, write_data, write_encoder

NAMES = [name for name in mtdnn.__all__ if name != "__version__"]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(mtdnn, name))]

TASKS = """\
rte: {task_type: classification, inputs: [premise, hypothesis], labels: [entailment, not_entailment]}
mrpc: {task_type: classification, inputs: [first, second], labels: ["0", "1"], metrics: [accuracy, f1]}
"""
RUN = "{tasks: tasks.yml, data: prepared, encoder: encoder, output: runs/first, max_steps: 2}"
STUDY = """\
output: study
variables: {steps: 1}
run: {tasks: tasks.yml, data: prepared, encoder: encoder, train: rte, max_steps: "${steps}"}
stages: {only: {axes: {seed: [1, 2]}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the examples refer to: definitions, rows, an encoder, prepared rows, a trained run, a study."""
    root = tmp_path_factory.mktemp("stranger")
    write_data(root / "data")
    write_encoder(root / "encoder")
    for name, text in (("tasks.yml", TASKS), ("run.yml", RUN), ("study.yml", STUDY)):
        (root / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        mtdnn.prepare("tasks.yml", data="data", encoder="encoder", out="prepared", num_workers=1)
        mtdnn.train("run.yml", progress=False)
    return root


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def loaded_by(code):
    """The modules that a program loads, by Python's own account."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines if line.startswith("import time:")}


HEAVY = {"torch", "pydantic", "transformers", "numpy", "datasets", "yaml"}


def test_importing_the_package_loads_no_heavy_library():
    assert loaded_by("import mtdnn; dir(mtdnn); mtdnn.ConfigError; mtdnn.__version__") & HEAVY == set()


def test_what_needs_no_model_loads_no_torch():
    names = (
        "load_task_defs",
        "load_run_config",
        "check",
        "prepare",
        "score",
        "load_study",
        "run_study",
        "write_report",
    )
    assert (
        loaded_by(f"import mtdnn; {'; '.join(f'mtdnn.{name}' for name in names)}") & {"torch", "transformers"} == set()
    )


def test_the_door_offers_what_the_package_promises():
    assert set(mtdnn.__all__) == {
        "TaskDef", "load_task_defs", "RunConfig", "load_run_config", "check", "prepare", "train", "open_run", "score",
        "load_study", "run_study", "write_report", "ConfigError", "DataError", "__version__",
    }  # fmt: skip
    assert set(mtdnn.__all__) <= set(dir(mtdnn))
    assert re.fullmatch(r"\d+\.\d+\.\d+.*|unknown", mtdnn.__version__)
    with pytest.raises(AttributeError, match="module 'mtdnn' has no attribute 'trian'"):
        mtdnn.trian  # noqa: B018


def test_editors_and_mypy_see_every_name():
    """The imports for type checkers name what is loaded when a name is used."""
    text = Path(mtdnn.__file__).read_text(encoding="utf-8")
    imports = re.findall(r"^    from mtdnn\.([\w.]+) import (.+)$", text, re.MULTILINE)
    homes = {name: module for module, names in imports for name in names.split(", ")}
    assert homes == mtdnn._MODULES
    assert {*homes, "__version__"} == set(mtdnn.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_its_docstring_runs(name, inside):
    docstring = inspect.getdoc(getattr(mtdnn, name))
    assert docstring.count("Example:") == 1
    example = doctest.DocTestParser().get_doctest(docstring.split("Example:")[1], {}, name, None, None)
    assert example.examples
    runner = doctest.DocTestRunner(verbose=False)
    said = []
    assert runner.run(example, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_names_every_parameter(name):
    item = getattr(mtdnn, name)
    args = re.split(r"^\S", inspect.getdoc(item).split("\nArgs:\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    parameters = inspect.signature(item).parameters
    named = re.findall(r"^    (\w+): \S", args, re.MULTILINE)
    assert named == list(parameters)
    if name in FUNCTIONS:
        assert "\nReturns:\n" in inspect.getdoc(item) and "\nRaises:\n" in inspect.getdoc(item)


@pytest.mark.parametrize("name", [*FUNCTIONS, "TaskDef", "RunConfig"])
def test_a_wrong_keyword_raises_our_error_with_the_nearest_name(name):
    item = getattr(mtdnn, name)
    known = list(inspect.signature(item).parameters)
    wrong = {"train": "epoch"}.get(name, f"{known[-1]}x")
    right = {"train": "epochs"}.get(name, known[-1])
    with pytest.raises(mtdnn.ConfigError) as caught:
        item(**{wrong: 1})
    (line,) = [line for line in caught.value.lines if "unknown keyword" in line]
    place = f"{name}(): {wrong}: " if name in ("TaskDef", "RunConfig") else f"{name}(): "
    assert line.startswith(f"{place}unknown keyword '{wrong}'; known: {known[0]}")
    assert line.endswith(f"Did you mean '{right}'?")


def test_a_keyword_that_is_missing_is_reported_with_the_others():
    with pytest.raises(mtdnn.ConfigError) as caught:
        mtdnn.prepare(encodr="bert")
    assert caught.value.lines == (
        "prepare(): unknown keyword 'encodr'; known: tasks, data, encoder, out, only, num_workers, launcher, progress, "
        "trust. Did you mean 'encoder'?",
        "prepare(): tasks: is missing. Give it.",
        "prepare(): encoder: is missing. Give it.",
        "prepare(): out: is missing. Give it.",
    )


def test_methods_of_an_opened_run_check_their_keywords_too(inside):
    run = mtdnn.open_run("runs/first")
    with pytest.raises(mtdnn.ConfigError) as caught:
        run.evaluate(splt="dev")
    assert str(caught.value) == (
        "Run.evaluate(): unknown keyword 'splt'; known: tasks, split, data. Did you mean 'split'?"
    )


@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ({"optimizer": {"l": 1}}, "train(): optimizer.l: unknown key 'l'; known: name, lr, "),
        ({"optimizer.lr": -1}, "train(): optimizer.lr: -1: input should be greater than 0"),
        ({"epochs": "many"}, "train(): epochs: 'many': expected a number"),
        ({"output": None}, "train(): output: None: expected a text"),
    ],
)
def test_a_wrong_value_of_a_run_is_named_by_its_keyword(keywords, line):
    given = {"tasks": "tasks.yml", "data": "prepared", "encoder": "encoder", "output": "runs/none"}
    with pytest.raises(mtdnn.ConfigError) as caught:
        mtdnn.train(**{**given, **keywords})
    assert str(caught.value).startswith(line)
    with pytest.raises(mtdnn.ConfigError) as caught:
        mtdnn.train(mtdnn.RunConfig(**given), **keywords)
    assert str(caught.value).startswith(line)
    with pytest.raises(mtdnn.ConfigError) as caught:
        mtdnn.train({**given, **keywords})
    assert str(caught.value).startswith(line)


FRAME = pandas.DataFrame({"text": ["It rained."], "label": ["wet"]})
PATH, GIVEN = "expected a text or a path. Give one.", "expected a text, a path or a mapping. Give one."
IN_MEMORY = "expected a text, a path, a mapping or None. Give one."


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: mtdnn.open_run(3), f"open_run(): folder: is of type int; {PATH}"),
        (lambda: mtdnn.write_report(None), f"write_report(): folder: is of type NoneType; {PATH}"),
        (lambda: mtdnn.load_study({}), f"load_study(): path: is of type dict; {PATH}"),
        (lambda: mtdnn.load_task_defs([]), f"load_task_defs(): definitions: is of type list; {GIVEN}"),
        (lambda: mtdnn.check(3), f"check(): tasks: is of type int; {GIVEN}"),
        (lambda: mtdnn.check({}, data=FRAME), f"check(): data: is of type DataFrame; {IN_MEMORY}"),
        (
            lambda: mtdnn.check({}, run=3),
            "check(): run: is of type int; expected a text, a path, a RunConfig, a mapping or None. Give one.",
        ),
        (
            lambda: mtdnn.prepare({}, encoder="encoder", out="made", num_workers="2"),
            "prepare(): num_workers: is of type str; expected a whole number or None. Give one.",
        ),
        (lambda: mtdnn.train(tasks=3, data=FRAME), f"train(): tasks: is of type int; {GIVEN}\ntrain(): data: is of"),
        (lambda: mtdnn.score(3), "score(): predictions: is of type int; expected a text, a path or a list. Give one."),
    ],
)
def test_a_value_of_another_type_is_reported_with_those_that_are_taken(call, line):
    with pytest.raises(mtdnn.ConfigError) as caught:
        call()
    assert str(caught.value).startswith(line)


def test_train_takes_a_run_its_file_or_keywords(inside):
    config = mtdnn.load_run_config("run.yml", {"output": "runs/of_config"})
    same = [
        mtdnn.train(config, progress=False),
        mtdnn.train("run.yml", output=Path("runs/of_file"), progress=False),
        mtdnn.train(**{**config.model_dump(), "output": "runs/of_keywords"}, progress=False),
        mtdnn.train(yaml.safe_load(Path("run.yml").read_text()), output="runs/of_mapping", progress=False),
    ]
    first, *others = ({task: each[task] for task in ("rte", "mrpc")} for each in same)
    assert all(each == first for each in others)
    names = ("of_config", "of_file", "of_keywords", "of_mapping")
    assert len({Path(f"runs/{name}/log.jsonl").read_text() for name in names}) == 1


def test_the_threads_of_a_run_are_its_own(inside, monkeypatch):
    """A later run in the same process, without the key, had the earlier one's."""
    seen, before, carry_out = [], torch.get_num_threads(), Setup.carry_out

    def watched(*given, **more):
        seen.append(torch.get_num_threads())
        carry_out(*given, **more)

    monkeypatch.setattr(Setup, "carry_out", watched)
    for number, threads in enumerate((before + 1, None)):
        mtdnn.train(
            tasks="tasks.yml", data="prepared", encoder="encoder", output=f"runs/threads{number}", max_steps=1,
            threads=threads, progress=False,
        )  # fmt: skip
    assert seen == [before + 1, before]
    assert torch.get_num_threads() == before


def test_a_run_of_tasks_in_memory_holds_their_definitions(inside):
    pair = {"task_type": "classification", "inputs": ["premise", "hypothesis"]}
    rte = mtdnn.TaskDef(name="rte", labels=["entailment", "not_entailment"], **pair)
    tasks = {"rte": rte, "mrpc": {"task_type": "classification", "inputs": ["first", "second"], "labels": [0, 1]}}
    given = {"data": "prepared", "encoder": "encoder", "max_steps": 2, "progress": False}
    results = mtdnn.train(tasks, output="runs/of_memory", **given)
    of_file = mtdnn.train(tasks="tasks.yml", output="runs/of_their_file", **given)
    assert results["rte"] == of_file["rte"]
    alone = mtdnn.train({"rte": rte}, output="runs/of_one", **given)
    assert alone["rte"] == mtdnn.train(tasks={"rte": rte}, output="runs/of_one_by_name", **given)["rte"]
    run = mtdnn.open_run("runs/of_memory")
    (of_run, given_ones) = (
        {name: task.model_dump() for name, task in each.items()} for each in (run.tasks, mtdnn.load_task_defs(tasks))
    )
    assert of_run == given_ones
    assert run.config.tasks == "runs/of_memory/tasks.yml"
    assert mtdnn.train(tasks=tasks, output="runs/of_memory", resume=True, **given)["rte"] == results["rte"]
    with pytest.raises(mtdnn.ConfigError, match="the run started with another definition of this task"):
        changed = {**tasks, "rte": rte.model_copy(update={"dropout": 0.3})}
        mtdnn.train(tasks=changed, output="runs/of_memory", resume=True, **given)


def tables(make=list):
    """The stranger's rows in memory, task → split → what `make` makes of a list of dicts."""
    columns = {"rte": ("id", "label", "premise", "hypothesis"), "mrpc": ("id", "label", "first", "second")}
    return {
        task: {split: make([dict(zip(names, row, strict=True)) for row in rows_of(task, split)]) for split in COUNTS}
        for task, names in columns.items()
    }


def losses(run):
    return Path(run, "log.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("make", [list, pandas.DataFrame, Dataset.from_list], ids=["list", "DataFrame", "Dataset"])
def test_a_run_of_rows_in_memory_is_that_of_the_same_rows_in_files(make, inside):
    output = f"runs/of_rows_{make.__name__}"
    given = {"tasks": "tasks.yml", "encoder": "encoder", "max_steps": 2, "progress": False}
    results = mtdnn.train(**given, data=tables(make), output=output)
    assert losses(output) == losses("runs/first")
    assert results["rte"] == mtdnn.open_run("runs/first").evaluate(["rte"])["rte"]
    assert mtdnn.train(**given, data=tables(list), output=output, resume=True)["rte"] == results["rte"]
    assert mtdnn.open_run(output).evaluate(["mrpc"], split="train")["mrpc"]["train"]["rows"] == 8
    mtdnn.write_report(output)


def test_rows_in_memory_do_not_touch_the_folder_of_another_run(inside):
    given = {"tasks": "tasks.yml", "encoder": "encoder", "max_steps": 2, "progress": False}
    mtdnn.train(**given, data=tables(), output="runs/kept")
    before = {path: path.stat().st_mtime_ns for path in Path("runs/kept").rglob("*")}
    others = tables()
    others["rte"]["train"].pop()
    with pytest.raises(mtdnn.ConfigError, match="runs/kept: output: already contains a run"):
        mtdnn.train(**given, data=others, output="runs/kept")
    others["rte"]["dev"][2]["label"] = "perhaps"
    with pytest.raises(mtdnn.DataError) as caught:
        mtdnn.train(**given, data=others, output="runs/none")
    assert str(caught.value).startswith("rows['rte']['dev']:3: label: 'perhaps' is not in rte.labels (tasks.yml:1)")
    assert not Path("runs/none").exists()
    assert {path: path.stat().st_mtime_ns for path in Path("runs/kept").rglob("*")} == before


def test_a_run_with_changed_rows_in_memory_is_not_resumed(inside):
    given = {"tasks": "tasks.yml", "encoder": "encoder", "progress": False, "max_steps": 2, "checkpoint_every": 1}
    mtdnn.train(**given, data=tables(), output="runs/resumed")
    shutil.rmtree("runs/resumed/last")  # as after a kill
    rows = tables()
    rows["rte"]["train"][0]["label"] = "not_entailment"
    with pytest.raises(mtdnn.DataError, match=r"the train rows differ from those .* was trained on"):
        mtdnn.train(**given, data=rows, output="runs/resumed", resume=True)
    mtdnn.train(**given, data=tables(), output="runs/resumed", resume=True)
    assert losses("runs/resumed") == losses("runs/first")


def test_an_opened_run_is_shown_in_a_line_and_takes_one_word_where_several_are_expected(inside):
    run = mtdnn.open_run("runs/first")
    tasks = list(run.tasks)
    assert repr(run) == f"Run('runs/first', checkpoint='best', step={run.step}, tasks={tasks}, device='{run.device}')"
    assert run.evaluate("rte") == run.evaluate(["rte"])
    for wrong in ([3], [None], [("one",)]):
        with pytest.raises(mtdnn.DataError, match=r"rows:1: .* is not a sequence of texts of this task\. Expected 2"):
            run.predict("rte", wrong)
    report = mtdnn.check({"a": {"task_type": "clasification"}})
    assert str(report) == str(report.faults[0]) and report.text() == ""


def test_an_opened_run_predicts_and_embeds_rows_in_memory(inside):
    run = mtdnn.open_run("runs/first")
    of_file = run.predict(["rte", "mrpc"], "data/rte/dev.tsv")
    for make in (list, pandas.DataFrame, Dataset.from_list):
        assert run.predict(["rte", "mrpc"], tables(make)["rte"]["dev"]) == of_file
    ids, vectors = run.embed("data/mrpc/dev.tsv", task="mrpc")
    same_ids, same_vectors = run.embed(tables()["mrpc"]["dev"], task="mrpc")
    assert same_ids == ids and np.array_equal(same_vectors, vectors)
    with pytest.raises(mtdnn.DataError) as caught:
        run.predict("rte", [{"premise": "It rained.", "hypothesis": ""}])
    assert str(caught.value) == "rows:1: hypothesis: empty text. Give the text, or remove the row."


def test_a_script_that_its_processes_would_carry_out_again_is_told_so_at_the_first(inside):
    lines = ["import mtdnn", 'mtdnn.run_study("study.yml", output="again", progress=False)']
    Path("script.py").write_text("\n".join(lines), encoding="utf-8")
    ended = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "mtdnn.errors.ConfigError: run_study(): the script starts the study again in each of its processes, which "
        'import the script. Put the call under `if __name__ == "__main__":`, or give launcher="here".'
    )
    assert ended.stderr.count("Traceback") == 1
