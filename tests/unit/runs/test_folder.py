"""A run's folder belongs to one run, and says what made it."""

from pathlib import Path

import pytest

from mtdnn.config.run import RunConfig, load_run_config
from mtdnn.config.tasks import TaskDef, load_task_defs, task_def_from
from mtdnn.errors import ConfigError, DataError
from mtdnn.runs.folder import RunFolder, tasks_to_yaml
from mtdnn.runs.plug_ins import resolved

BLOCK = {
    "task_type": "classification",
    "inputs": ["premise", "hypothesis"],
    "labels": ["0", "1"],
    "regularizer": {"name": "smart", "weight": 3},
    "init_head": {"from": "mnli", "labels": {"0": "entailment"}},
    "stride": 64,
}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    given = {"tasks": "tasks.yml", "data": "prepared", "output": str(tmp_path / "run"), "encoder": "tiny"}
    return load_run_config(None, given)


@pytest.fixture
def tasks() -> dict[str, TaskDef]:
    return {"rte": task_def_from("rte", BLOCK)}


MADE = {"scales": {}, "seed": 1}


def test_definitions_written_are_read_back_equal(tmp_path: Path, tasks: dict[str, TaskDef]) -> None:
    (tmp_path / "tasks.yml").write_text(tasks_to_yaml(tasks))
    again = load_task_defs(tmp_path / "tasks.yml")
    assert again["rte"].model_dump() == tasks["rte"].model_dump()
    assert again["rte"].options == {"stride": 64}


def test_a_default_that_was_written_out_stays_written(tmp_path: Path) -> None:
    """A task type may mean something else where nothing is written: heads for masked words have no dropout then."""
    written = {"words": task_def_from("words", {"task_type": "masked_lm", "dropout": 0.1})}
    (tmp_path / "tasks.yml").write_text(tasks_to_yaml(written))
    assert "dropout" in load_task_defs(tmp_path / "tasks.yml")["words"].model_fields_set


def test_a_run_is_read_back_equal_with_its_makers_named(config: RunConfig, tasks: dict[str, TaskDef]) -> None:
    folder = RunFolder(config.output)
    folder.claim(config, tasks, resume=False)
    assert folder.read_config() == resolved(config, ("optimizer", "schedule"))
    assert folder.config_file.read_text().startswith("# commit: ")


def test_a_folder_that_holds_a_run_is_not_taken(config: RunConfig, tasks: dict[str, TaskDef]) -> None:
    folder = RunFolder(config.output)
    folder.claim(config, tasks, resume=False)
    with pytest.raises(ConfigError, match=r"already contains a run\. Give --resume to continue it, or another --"):
        folder.claim(config, tasks, resume=False)


@pytest.mark.parametrize("name", ["tasks.yml", "results.json", "log.jsonl"])
@pytest.mark.parametrize("resume", [False, True])
def test_files_that_are_no_run_s_are_not_written_over(
    config: RunConfig, tasks: dict[str, TaskDef], name: str, resume: bool
) -> None:
    folder = RunFolder(config.output)
    folder.path.mkdir()
    (folder.path / name).write_text("# mine\n")
    with pytest.raises(ConfigError, match=rf"run: output: has no run\.yml, but {name}, which training would"):
        folder.claim(config, tasks, resume=resume)
    assert {path.name: path.read_text() for path in folder.path.iterdir()} == {name: "# mine\n"}


def test_a_run_killed_before_its_run_yml_was_written_is_begun_anew(
    config: RunConfig, tasks: dict[str, TaskDef]
) -> None:
    folder = RunFolder(config.output)
    folder.path.mkdir()
    folder.tasks_file.write_text(tasks_to_yaml(tasks), encoding="utf-8")
    folder.claim(config, tasks, resume=True)
    assert folder.read_config() == resolved(config, ("optimizer", "schedule"))


def test_a_resumed_run_may_not_change_what_is_computed(config: RunConfig, tasks: dict[str, TaskDef]) -> None:
    folder = RunFolder(config.output)
    folder.claim(config, tasks, resume=False)
    folder.claim(config.model_copy(update={"threads": 2}), tasks, resume=True)
    changed = config.model_copy(update={"seed": 5})
    with pytest.raises(ConfigError, match="seed: the run started with 1, now it is 5"):
        folder.claim(changed, tasks, resume=True)
    faster = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"lr": 1.0})})
    with pytest.raises(ConfigError, match=r"optimizer\.lr: the run started with 5e-05, now it is 1\.0"):
        folder.claim(faster, tasks, resume=True)
    other = {"rte": task_def_from("rte", {**BLOCK, "dropout": 0.5})}
    with pytest.raises(ConfigError, match="rte: the run started with another definition"):
        folder.claim(config, other, resume=True)


def test_results_keep_what_was_there_and_name_commit_seed_and_step(
    config: RunConfig, tasks: dict[str, TaskDef]
) -> None:
    folder = RunFolder(config.output)
    folder.claim(config, tasks, resume=False)
    folder.write_results({"rte": {"dev": {"accuracy": 0.5}}}, **MADE, step=3, checkpoint="best")
    merged = folder.write_results({"rte": {"test": {"accuracy": 0.4}}}, **MADE, step=3, checkpoint="best")
    assert merged["rte"] == {"dev": {"accuracy": 0.5}, "test": {"accuracy": 0.4}}
    assert {"commit", "torch", "seed", "step", "checkpoint"} <= merged["_run"].keys()
    assert folder.read_results() == merged


def test_results_made_by_no_run_of_ours_are_refused(config: RunConfig) -> None:
    folder = RunFolder(config.output)
    folder.path.mkdir()
    folder.results_file.write_text('{"_run": {"commit": ["a"]}}')
    with pytest.raises(DataError, match=r"results\.json: .*'_run' has a value that is neither a text nor a number"):
        folder.read_results()


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999"])
def test_results_that_are_not_finite_are_refused(config: RunConfig, value: str) -> None:
    folder = RunFolder(config.output)
    folder.path.mkdir()
    folder.results_file.write_text(f'{{"rte": {{"dev": {{"accuracy": {value}}}}}}}')
    with pytest.raises(DataError, match=r"results\.json: .*'rte\.dev\.accuracy' is not a finite number"):
        folder.read_results()


def test_each_split_s_results_name_their_own_checkpoint(config: RunConfig, tasks: dict[str, TaskDef]) -> None:
    folder = RunFolder(config.output)
    folder.claim(config, tasks, resume=False)
    folder.write_results({"rte": {"dev": {"accuracy": 0.5}}}, **MADE, step=3, checkpoint="best")
    merged = folder.write_results({"rte": {"test": {"accuracy": 0.4}}}, **MADE, step=9, checkpoint="last")
    makers = merged["_made_by"]["rte"]
    assert (makers["dev"]["checkpoint"], makers["dev"]["step"]) == ("best", 3)
    assert (makers["test"]["checkpoint"], makers["test"]["step"]) == ("last", 9)
    assert makers["dev"]["commit"] == merged["_run"]["commit"]


def test_a_folder_without_a_run_is_distinguished(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"contains no run \(there is no run.yml\)"):
        RunFolder(tmp_path).read_config()
