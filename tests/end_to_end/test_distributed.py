"""Processes over gloo, as `torchrun` starts them: the run of one process, but for the order of sums."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mtdnn.config.run import load_run_config
from mtdnn.runs.train import train
from mtdnn.training.checkpoint import read_training
from tests.conftest import REPOSITORY, Demo
from tests.end_to_end.update_processes import NUM_ROWS, WAYS, everything
from tests.reference.forks import launched

EXCHANGES = {
    "regularizer free_at": 5,
    "balance fixed": 5,
    "adapter of each task": 5,
    "balance dwa": 6,
    "balance uncertainty": 6,
    "balance cagrad": 8,
    "balance gradnorm": 8,
    "balance imtl": 8,
    "balance pcgrad": 8,
    "balance upgrad": 8,
    "balance famo": 12,
}
"""Exchanges of an update where they are not 3. `free_at` moves three times, each time by a gradient; two tasks have
counts and losses each; a method may need a task's loss, its norm or its gradient, and `famo` its loss again."""

SETTINGS = {
    "train": ["demo_nli", "demo_similarity"],
    "max_steps": 8,
    "log_every": 1,
    "eval_batch_size": 5,  # five batches of 24 dev rows: the processes have unequal shares
    "regularizer": {"name": "smart", "epsilon": 1e-3, "eta": 1e-3},
    "proximal": {"name": "momentum"},
}


@pytest.fixture(scope="module")
def without_dropout(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Encoder and tasks without dropout, whose masks every process draws for its own rows."""
    folder = tmp_path_factory.mktemp("plain")
    shutil.copytree(demo.encoder, folder / "encoder")
    config = folder / "encoder" / "config.json"
    values = json.loads(config.read_text())
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps({**values, **off}))
    tasks = folder / "tasks.yml"
    blocks = yaml.safe_load(demo.tasks.read_text())
    tasks.write_text(yaml.safe_dump({name: {**block, "dropout": 0.0} for name, block in blocks.items()}))
    return {"encoder": str(folder / "encoder"), "tasks": str(tasks)}


def logged(run: Path) -> list[dict[str, float]]:
    """What the log has for each step: its task's values."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        {f"{task}.{name}": value for task, values in line["train"].items() for name, value in values.items()}
        for line in lines
        if "train" in line
    ]


def by_torchrun(processes: int, *words: str) -> tuple[int, str, str]:
    """What `launched` returns, by the launcher itself and fresh interpreters."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    command = [sys.executable, *launcher, *words]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            output, errors = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output, errors


def require_same_predictions(first: Path, second: Path, *, rel: float) -> None:
    """Every row once, in the order of the file, with the same scores."""
    for task in SETTINGS["train"]:
        one, two = (
            [json.loads(line) for line in (run / "predictions" / f"{task}.dev.jsonl").read_text().splitlines()]
            for run in (first, second)
        )
        assert len(one) == 24 and [record["id"] for record in one] == [record["id"] for record in two]
        for record, other in zip(one, two, strict=True):
            values = [each["scores"] if task == "demo_nli" else each["prediction"] for each in (record, other)]
            assert values[1] == pytest.approx(values[0], rel=rel, abs=1e-3)


@pytest.mark.parametrize(
    ("processes", "more"),
    [(2, {"ema": 0.5}), (3, {"batch_size": 2, "accumulate": 2})],
    ids=["two, averaged weights", "three, more than there are rows in a batch"],
)
def test_processes_train_and_predict_as_one_does(
    demo: Demo, without_dropout: dict[str, Any], tmp_path: Path, processes: int, more: dict[str, Any]
) -> None:
    """Float32, sums of some hundred terms in another order, eight steps of AdamW: 1e-3."""
    values = demo.run_values(tmp_path / "one", **{**SETTINGS, **without_dropout, **more})
    train(load_run_config(None, values), progress=False)
    config = tmp_path / "run.yml"
    config.write_text(load_run_config(None, {**values, "output": str(tmp_path / "several")}).to_yaml())
    status, output, errors = launched(processes, "-m", "mtdnn", "train", str(config))
    assert status == 0, errors[-2000:]
    assert len(re.findall("best checkpoint, results and predictions", output)) == 1
    require_same_predictions(tmp_path / "one", tmp_path / "several", rel=1e-2)
    one, several = logged(tmp_path / "one"), logged(tmp_path / "several")
    assert [step.keys() for step in one] == [step.keys() for step in several]
    for first, second in zip(one, several, strict=True):
        compared = [name for name in first if ".smart." not in name]  # those tell of the first process's rows alone
        assert {name: second[name] for name in compared} == pytest.approx(
            {name: first[name] for name in compared}, rel=1e-3, abs=1e-6
        )
    require_same_weights(tmp_path / "one", tmp_path / "several", averaged="ema" in more)


def require_same_weights(first: Path, second: Path, *, averaged: bool) -> None:
    """The stored weights are equal, averaged ones if there is an average.

    In each of eight steps AdamW moves a weight by about the learning rate, 1e-3, however small its gradient, so that a
    single weight whose gradient is next to 0 may end elsewhere; their mean difference is a hundredth of a step.
    """
    stored = [load_file(run / "last" / "model.safetensors") for run in (first, second)]
    apart = [(stored[0][name] - stored[1][name]).abs() for name in stored[0]]
    assert max(float(each.max()) for each in apart) < 2e-3 and max(float(each.mean()) for each in apart) < 2e-5
    if averaged:
        one, two = (read_training(run / "checkpoints" / "step-8")["average"] for run in (first, second))
        assert one["steps_done"] == two["steps_done"] == 8
        moved = [(one["weights"][name] - stored[0][name]).abs().mean() for name in one["weights"]]
        assert max(map(float, moved)) > 1e-4  # the average is not the run's own weights


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `update_processes` ends with in one process, and in each of two."""
    folder = tmp_path_factory.mktemp("updates")
    status, _, errors = launched(2, "-m", "tests.end_to_end.update_processes", str(folder))
    assert status == 0, errors[-3000:]
    return [everything(), *(torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))]


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_end_with_the_weights_of_one_in_every_way(ends: list[dict[str, Any]], way: str) -> None:
    """Sums of numbers of 64 bits in another order, three steps of AdamW, attacks along normalised gradients: 1e-6 of
    what three steps of 1e-3 move."""
    one, *two = (each[way] for each in ends)
    for name, value in one["weights"].items():
        assert torch.equal(two[0]["weights"][name], two[1]["weights"][name])
        torch.testing.assert_close(two[0]["weights"][name], value, rtol=0, atol=3e-9, msg=name)
    for task, values in one["losses"].items():
        assert two[0]["losses"][task]["task"] == pytest.approx(values["task"], rel=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_an_update_takes_a_handful_of_exchanges(ends: list[dict[str, Any]], way: str) -> None:
    """Of one task: how many rows and labels there are, the gradients, and the losses for the log."""
    counted = ends[1][way]["exchanges"]
    assert counted == [EXCHANGES.get(way, 3)] * 3 == ends[2][way]["exchanges"]
    assert ends[0][way]["exchanges"] == [0, 0, 0]


def test_any_number_of_rows_is_predicted_once_and_in_order_by_every_process(ends: list[dict[str, Any]]) -> None:
    """Also fewer rows than processes, and none."""
    one, *two = (each["predictions"] for each in ends)
    assert two == [one, one]
    assert [[record.split()[0] for record in each] for each in one] == [
        [str(row) for row in range(number)] for number in NUM_ROWS
    ]


@pytest.mark.parametrize(
    "by", [launched, pytest.param(by_torchrun, marks=pytest.mark.slow)], ids=["forked", "torchrun"]
)
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    demo: Demo, tmp_path: Path, by: Callable[..., tuple[int, str, str]]
) -> None:
    """The optimizer moves several times in a step: a process that makes one move more would hang the others."""
    more = {"batch_size": 3, "regularizer": {"name": "free_at", "steps": 2}}
    values = demo.run_values(tmp_path / "run", **{**SETTINGS, **more})
    config = tmp_path / "run.yml"
    config.write_text(load_run_config(None, values).to_yaml())
    script = REPOSITORY / "tests" / "end_to_end" / "killed.py"
    status, _, errors = by(2, str(script), str(config), "asked:5")
    assert status != 0
    assert errors.count("Interrupted: stopped by SIGTERM after step 5; --resume continues") == 2, errors[-2000:]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-5"]


def test_a_lost_process_ends_the_others_and_one_process_resumes(
    demo: Demo, without_dropout: dict[str, Any], tmp_path: Path
) -> None:
    """The checkpoint before remains; a run of two processes resumes in one, and ends as one from the start does."""
    values = demo.run_values(tmp_path / "run", **{**SETTINGS, **without_dropout, "checkpoint_every": 2})
    config = tmp_path / "run.yml"
    config.write_text(load_run_config(None, values).to_yaml())
    script = REPOSITORY / "tests" / "end_to_end" / "killed.py"
    status, _, errors = launched(2, str(script), str(config), "lost:5")
    assert status != 0
    message = "LostProcess: another process of the run has ended, so that process 0 of 2 cannot continue."
    assert errors.count(message) == 1, errors[-2000:]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")) == ["step-2", "step-4"]
    train(load_run_config(config), resume=True, progress=False)
    train(load_run_config(config, {"output": str(tmp_path / "one")}), progress=False)
    require_same_predictions(tmp_path / "one", tmp_path / "run", rel=1e-2)


def test_several_processes_evaluate_and_predict_what_one_does(demo: Demo, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(load_run_config(None, demo.run_values(run, **{**SETTINGS, "max_steps": 2})), progress=False)
    before = {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    status, output, errors = launched(2, "-m", "mtdnn", "evaluate", str(run))
    assert status == 0 and output.count("predictions: ") == 1, errors[-2000:]
    assert before == {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    rows, to = str(demo.data / "demo_nli" / "dev.tsv"), tmp_path / "out.jsonl"
    words = ["predict", str(run), "--task", "demo_nli", "--input", rows, "--output", str(to)]
    status, output, errors = launched(2, "-m", "mtdnn", *words)
    assert status == 0 and output.count("24 predictions of demo_nli") == 1, errors[-2000:]
    assert to.read_bytes() == before["demo_nli.dev.jsonl"]


def test_several_processes_prepare_what_one_does_and_report_the_errors_of_all(demo: Demo, tmp_path: Path) -> None:
    words = ["prepro", str(demo.tasks), "--encoder", str(demo.encoder), "--workers", "1", "--data"]
    status, output, errors = launched(2, "-m", "mtdnn", *words, str(demo.data), "--out", str(tmp_path / "two"))
    assert status == 0 and output.count("prepared rows: ") == 1, errors[-2000:]
    stores = [
        {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}
        for store in (demo.prepared, tmp_path / "two")
    ]
    assert stores[0] == stores[1]
    shutil.copytree(demo.data, tmp_path / "data")
    for task in ("demo_nli", "demo_similarity"):  # the first and one of the last parts: of two processes
        with (tmp_path / "data" / task / "train.tsv").open("a") as rows:
            rows.write("a line without columns\n")
    status, _, errors = launched(2, "-m", "mtdnn", *words, str(tmp_path / "data"), "--out", str(tmp_path / "bad"))
    assert status != 0 and len(set(re.findall(r"^\S+train.tsv:\d+: ", errors, re.MULTILINE))) == 2, errors[-2000:]
    assert not list((tmp_path / "bad").glob("demo_*"))


@pytest.mark.slow
def test_three_processes_prepare_evaluate_and_predict_fewer_rows_than_there_are_processes(
    demo: Demo, tmp_path: Path
) -> None:
    """One train row, two dev rows, and a file of one row; a file without rows is an error in every number."""
    data, rows = tmp_path / "data" / "demo_nli", (demo.data / "demo_nli" / "train.tsv").read_text().splitlines(True)
    data.mkdir(parents=True)
    for split, count in (("train", 1), ("dev", 2), ("one", 1), ("none", 0)):
        (data / f"{split}.tsv").write_text("".join(rows[:count]))
    tasks = tmp_path / "tasks.yml"
    tasks.write_text(yaml.safe_dump({"demo_nli": yaml.safe_load(demo.tasks.read_text())["demo_nli"]}))
    for number, out in ((1, "alone"), (3, "together")):
        places = ["--data", str(tmp_path / "data"), "--encoder", str(demo.encoder), "--out", str(tmp_path / out)]
        status, _, errors = launched(number, "-m", "mtdnn", "prepro", str(tasks), *places)
        assert status == 0, errors[-2000:]
    stores = [
        {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}
        for store in (tmp_path / "alone", tmp_path / "together")
    ]
    assert stores[0] == stores[1]
    values = {"tasks": str(tasks), "data": str(tmp_path / "together"), "train": ["demo_nli"], "max_steps": 2}
    config, found = tmp_path / "run.yml", []
    for number in (1, 3):
        run = tmp_path / f"run{number}"
        config.write_text(load_run_config(None, demo.run_values(run, **values)).to_yaml())
        assert launched(number, "-m", "mtdnn", "train", str(config))[0] == 0
        words = ["predict", str(tmp_path / "run1"), "--task", "demo_nli", "--input"]
        for name in ("one", "none"):
            to = tmp_path / f"{name}{number}.jsonl"
            status, _, errors = launched(number, "-m", "mtdnn", *words, str(data / f"{name}.tsv"), "--output", str(to))
            found.append((name, status, to.read_bytes() if to.exists() else b""))
    assert found[:2] == found[2:] and found[0][1] == 0 and found[0][2].count(b"\n") == 1
    sizes = [json.loads((tmp_path / f"run{n}" / "results.json").read_text())["demo_nli"]["dev"]["rows"] for n in (1, 3)]
    assert sizes == [2, 2]


IN_MEMORY = """
import sys
import mtdnn

rows = [{"text": f"the kite {word}", "label": label} for word, label in (("flies", "up"), ("falls", "down")) * 4]
results = mtdnn.train(
    tasks={"kites": {"task_type": "classification", "labels": ["up", "down"], "max_length": 16}},
    data={"kites": {"train": rows, "dev": rows}},
    encoder=sys.argv[1], output=sys.argv[2], max_steps=2, batch_size=4, progress=False,
)
print("kites" in results)
"""


def test_rows_in_memory_are_prepared_by_one_of_the_processes(demo: Demo, tmp_path: Path) -> None:
    script, run = tmp_path / "script.py", tmp_path / "run"
    script.write_text(IN_MEMORY, encoding="utf-8")
    status, output, errors = launched(2, str(script), str(demo.encoder), str(run))
    assert status == 0, errors[-2000:]
    assert sorted(output.split()) == ["False", "True"]
    assert json.loads((run / "results.json").read_text())["kites"]["dev"]["rows"] == 8
    assert (run / "prepared" / "kites" / "train" / "manifest.json").is_file()


def test_transformers_trainer_with_our_terms_trains_in_two_processes_as_in_one(tmp_path: Path) -> None:
    """Sums in another order, two steps of SGD in float32: 1e-5."""
    for processes, batch_size in ((1, 8), (2, 4)):
        (tmp_path / str(processes)).mkdir()
        words = ["-m", "tests.end_to_end.trainer_processes", str(tmp_path / str(processes)), str(batch_size)]
        status, _, errors = launched(processes, *words)
        assert status == 0, errors
    one, two = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in "12")
    assert one["steps"] == 2
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_sums_during_the_backward_pass_give_the_weights_of_sums_after_it_bit_for_bit(
    demo: Demo, without_dropout: dict[str, Any], tmp_path: Path, processes: int
) -> None:
    """The same buffers: with three processes, where a number is in its buffer decides the order of its sum."""
    values = demo.run_values(tmp_path, **{**SETTINGS, **without_dropout})
    words = []
    for how in ("during", "after"):
        config = tmp_path / f"{how}.yml"
        config.write_text(load_run_config(None, {**values, "output": str(tmp_path / how)}).to_yaml())
        words.append(f"{config}:{how}")
    script = REPOSITORY / "tests" / "end_to_end" / "several_runs.py"
    status, _, errors = launched(processes, str(script), *words)
    assert status == 0, errors[-2000:]
    one, other = (load_file(tmp_path / how / "last" / "model.safetensors") for how in ("during", "after"))
    assert all(torch.equal(one[name], other[name]) for name in one)
