"""Data names no code: files of strangers are checked, trained on, opened and reported without importing what they
name, until the user says that they are trusted."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModel

import mtdnn
from mtdnn.cli.main import main
from mtdnn.registry import TRUST, is_trusted
from tests.conftest import REPOSITORY, Demo

MODULE = """\
from pathlib import Path

from mtdnn.data.samplers import Uniform
from mtdnn.metrics.base import Metric
from mtdnn.metrics.labels import NAMES
from mtdnn.networks.heads import PooledHead
from mtdnn.networks.losses import cross_entropy
from mtdnn.regularizers.r_drop import RDrop
from mtdnn.regularizers.proximal import Momentum
from mtdnn.task_types.classification import Classification
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

Path(__file__).with_suffix(".imported").touch()
half = Metric("half", lambda records, labels: 0.5, NAMES)

def flat(optimizer, *, num_steps):
    return LambdaLR(optimizer, lambda step: 1.0)
"""
IN_TASKS = {
    "task_type": "strange.Classification",
    "metrics": ["strange.half"],
    "head": "strange.PooledHead",
    "loss": "strange.cross_entropy",
    "regularizer": "strange.RDrop",
}
IN_RUNS = {
    "regularizer": "strange.RDrop",
    "proximal": "strange.Momentum",
    "mixing": "strange.Uniform",
    "optimizer": {"name": "strange.SGD", "lr": 1e-3},
    "schedule": "strange.flat",
}


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a module of a stranger, `strange`, leaves when it is imported."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "strange.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "strange", raising=False)
    monkeypatch.delenv(TRUST, raising=False)
    return place / "strange.imported"


def written(path: Path, value: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(value), sort_keys=False), encoding="utf-8")
    return path


def tasks_file(demo: Demo, folder: Path, **keys: Any) -> Path:
    """Definitions of one task of the demo, with these keys."""
    block: dict[str, Any] = yaml.safe_load(demo.tasks.read_text(encoding="utf-8"))["demo_nli"]
    return written(folder / "tasks.yml", {"demo_nli": {**block, **keys}})


def run_file(demo: Demo, folder: Path, **keys: Any) -> Path:
    values = demo.run_values(folder / "run", train=["demo_nli"], max_steps=2, progress=None)
    values.pop("progress")
    lr = values.pop("optimizer.lr")
    return written(folder / "run.yml", {**values, "optimizer": {"lr": lr}, **keys})


@pytest.fixture(scope="module")
def trained(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the demo."""
    folder = tmp_path_factory.mktemp("trusted")
    mtdnn.train(run_file(demo, folder), progress=False)
    return folder / "run"


def stranger_s(run: Path, folder: Path, **keys: Any) -> Path:
    """A copy of a run whose tasks name these."""
    copy = folder / "strange_run"
    shutil.copytree(run, copy)
    blocks = yaml.safe_load((copy / "tasks.yml").read_text(encoding="utf-8"))
    written(copy / "tasks.yml", {name: {**block, **keys} for name, block in blocks.items()})
    return copy


def refusal(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """What a command prints that ends with status 2."""
    capsys.readouterr()
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return shown.err


@pytest.mark.parametrize("key", IN_TASKS)
def test_a_task_file_names_code_only_where_it_is_trusted(
    demo: Demo, tmp_path: Path, imported: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tasks_file(demo, tmp_path, **{key: IN_TASKS[key]})
    run, out = run_file(demo, tmp_path, tasks=str(tasks)), str(tmp_path / "prepared")
    path = IN_TASKS[key][0] if isinstance(IN_TASKS[key], list) else IN_TASKS[key]
    line = 1 + tasks.read_text(encoding="utf-8").splitlines().index(next(iter(_lines_of(tasks, f"  {key}:"))))
    check = ["check", str(tasks), "--data", str(demo.data), "--run", str(run)]
    prepro = ["prepro", str(tasks), "--data", str(demo.data), "--encoder", str(demo.encoder), "--out", out]
    for words in (check, prepro, ["train", str(run)]):
        if key == "regularizer" and words[0] == "prepro":
            continue  # rows are prepared without one
        reported = refusal(capsys, words)
        assert (
            f"{tasks}:{line}: demo_nli.{key}: " in reported and f"'{path}' is code that would be imported" in reported
        )
        assert "add --trust, or trust=True in Python" in reported
        assert not imported.exists()
    assert main([*check, "--trust"]) == 0
    assert imported.exists() and not is_trusted()


def _lines_of(path: Path, start: str) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(start)]


@pytest.mark.parametrize("key", IN_RUNS)
def test_a_run_names_code_only_where_it_is_trusted(
    demo: Demo, tmp_path: Path, imported: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_file(demo, tmp_path, **{key: IN_RUNS[key]})
    path = IN_RUNS[key]["name"] if isinstance(IN_RUNS[key], dict) else IN_RUNS[key]
    for words in (["train", str(run)], ["check", str(demo.tasks), "--run", str(run)]):
        reported = refusal(capsys, words)
        assert (
            f"{run}:" in reported and f"'{path}' is code that would be imported" in reported and "--trust" in reported
        )
    with pytest.raises(mtdnn.ConfigError, match="trust=True"):
        mtdnn.train(run, progress=False)
    assert not imported.exists()
    mtdnn.train(run, progress=False, trust=True)
    assert imported.exists() and not is_trusted()


def test_a_word_that_the_user_types_is_the_user_s(demo: Demo, tmp_path: Path, imported: Path) -> None:
    run = run_file(demo, tmp_path)
    assert main(["train", str(run), "--regularizer", "strange.RDrop"]) == 0
    assert imported.exists()
    assert main(["score", str(tmp_path / "run/predictions/demo_nli.dev.jsonl"), "--metrics", "strange.half"]) == 0


@pytest.mark.parametrize("key", ["task_type", "metrics", "head", "loss"])
def test_the_folder_of_a_stranger_s_run_is_opened_without_its_code(
    trained: Path, demo: Demo, tmp_path: Path, imported: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, rows = stranger_s(trained, tmp_path, **{key: IN_TASKS[key]}), str(demo.data / "demo_nli" / "dev.tsv")
    inward = ["--task", "demo_nli", "--input", rows, "--output"]
    for words in (
        ["evaluate", str(run)],
        ["predict", str(run), *inward, str(tmp_path / "out.jsonl")],
        ["embed", str(run), "--input", rows, "--output", str(tmp_path / "out.parquet")],
        ["export", str(run), "--task", "demo_nli", "--output", str(tmp_path / "exported")],
    ):
        reported = refusal(capsys, words)
        assert f"{run}/tasks.yml:" in reported and "'strange." in reported and "--trust" in reported
        assert not imported.exists()
    assert main(["report", str(run)]) == 0
    assert not imported.exists()
    opened = mtdnn.open_run(run, trust=True)
    assert imported.exists() and not is_trusted()
    assert len(opened.predict("demo_nli", rows)["demo_nli"]) == 24
    with pytest.raises(mtdnn.ConfigError):
        mtdnn.open_run(run)


def test_a_report_imports_nothing_that_results_name(
    trained: Path, tmp_path: Path, imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    results["demo_nli"]["dev"] = {"strange.half": 0.5, **results["demo_nli"]["dev"]}
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert main(["report", str(run)]) == 0
    assert main(["report", str(run), "--trust"]) == 0
    assert not imported.exists()


def test_a_study_trusts_its_axes_and_the_processes_of_its_cells_alike(
    demo: Demo, tmp_path: Path, imported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = demo.run_values(tmp_path / "unused", train=["demo_nli"], max_steps=1)
    values.pop("output")
    study = {
        "output": str(tmp_path / "study"),
        "run": values,
        "stages": {"only": {"axes": {"method": {"strange": {"regularizer": "strange.RDrop"}}}}},
    }
    path = written(tmp_path / "study.yml", study)
    reported = refusal(capsys, ["study", str(path)])
    assert "'strange.RDrop' is code that would be imported" in reported and not imported.exists()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(imported.parent), str(REPOSITORY))))
    assert main(["study", str(path), "--trust"]) == 0
    assert imported.exists()


@pytest.mark.parametrize("shadow", ["strange", "yaml", "logging"])
def test_python_m_imports_nothing_from_the_current_folder(demo: Demo, tmp_path: Path, shadow: str) -> None:
    """Whoever runs `python -m mtdnn` in a downloaded folder runs none of its files, whatever modules they stand for."""
    (tmp_path / f"{shadow}.py").write_text(MODULE, encoding="utf-8")
    tasks = tasks_file(demo, tmp_path, **({"metrics": ["strange.half"]} if shadow == "strange" else {}))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-m", "mtdnn", "check", tasks.name, "--data", str(demo.data), "--trust"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert not (tmp_path / f"{shadow}.imported").exists()
    if shadow == "strange":
        assert done.returncode == 2 and "No module named 'strange'" in done.stderr and "PYTHONPATH=." in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_pickled_weights_of_an_encoder_are_loaded_only_where_they_are_trusted(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = tmp_path / "encoder"
    shutil.copytree(demo.encoder, encoder)
    model = AutoModel.from_pretrained(encoder)
    (encoder / "model.safetensors").unlink()
    torch.save(model.state_dict(), encoder / "pytorch_model.bin")
    run = run_file(demo, tmp_path, encoder=str(encoder))
    reported = refusal(capsys, ["train", str(run)])
    assert "weights cannot be loaded" in reported and "pytorch_model.bin" in reported and "add --trust" in reported
    assert main(["train", str(run), "--trust"]) == 0


def test_code_of_a_hub_repository_is_never_run(
    demo: Demo, tmp_path: Path, imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An `auto_map` in config.json, as repositories with their own architecture have it."""
    encoder = tmp_path / "encoder"
    shutil.copytree(demo.encoder, encoder)
    shutil.copy(imported.parent / "strange.py", encoder / "strange.py")
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    own = {"auto_map": {"AutoConfig": "strange.Config", "AutoModel": "strange.Model"}, "model_type": "stranger"}
    (encoder / "config.json").write_text(json.dumps({**config, **own}), encoding="utf-8")
    for trust in ([], ["--trust"]):
        refusal(capsys, ["train", str(run_file(demo, tmp_path, encoder=str(encoder))), *trust])
        assert not (encoder / "strange.imported").exists() and not imported.exists()


ESCAPES = "\x1b[2Jred\u202e\x9b31m"
SHOWN = "\\x1b[2Jred\\u202e\\x9b31m"


def test_control_characters_of_rows_and_names_are_shown_and_not_sent(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In tables of `check`, in errors and in what is logged: a terminal would obey them."""
    rows = tmp_path / "data" / "colours"
    rows.mkdir(parents=True)
    lines = [json.dumps({"id": str(number), "label": ESCAPES, "text": "red"}) for number in range(3)]
    bad = json.dumps({"id": f"a\nb.yml:1: {ESCAPES}", "label": "\x1bblue", "text": "red"})
    for name, found in (("train", lines), ("dev", [*lines, bad])):
        (rows / f"{name}.jsonl").write_text("\n".join(found) + "\n", encoding="utf-8")
    block: dict[str, Any] = {"task_type": "classification", "labels": [ESCAPES, "green"], "splits": {"train": "train"}}
    tasks = written(tmp_path / "tasks.yml", {"colours": block})
    assert main(["check", str(tasks), "--data", str(rows.parent)]) == 0
    shown = capsys.readouterr()
    assert f"{SHOWN}: 3 (100.0%)" in shown.out
    written(tasks, {"colours": {**block, "splits": {"train": "train", "dev": "dev"}}})
    reported = refusal(capsys, ["check", str(tasks), "--data", str(rows.parent)])
    assert len([line for line in reported.splitlines() if "x1bblue" in line]) == 1
    monkeypatch.setattr("mtdnn.cli.main.COMMANDS", {"check": _logs})
    assert main(["check"]) == 0
    for text in (*shown, reported, capsys.readouterr().err):
        assert not {"\x1b", "\x9b", "\u202e"} & set(text)


def _logs() -> str:
    """A command that logs a name."""
    logging.getLogger("mtdnn.of_a_test").warning("a name: %s", ESCAPES)
    return ""


@pytest.mark.parametrize("name", ["../../x", "..", "a/b", "/etc", "x\\y"])
def test_names_that_lead_out_of_a_folder_are_refused(
    demo: Demo, trained: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    block: dict[str, Any] = yaml.safe_load(demo.tasks.read_text(encoding="utf-8"))["demo_nli"]
    for tasks in ({name: block}, {"a": {**block, "splits": {"train": [name]}}}):
        refusal(capsys, ["check", str(written(tmp_path / "tasks.yml", tasks))])
    stages = {name: {"axes": {"seed": [1]}}}
    study = {"output": str(tmp_path / "study"), "run": demo.run_values(tmp_path), "stages": stages}
    refusal(capsys, ["study", str(written(tmp_path / "study.yml", study))])
    for words in (["--task", name, "--checkpoint", "best"], ["--task", "demo_nli", "--checkpoint", name]):
        refusal(capsys, ["export", str(trained), *words, "--output", str(tmp_path / "exported")])
        rows = ["--input", str(demo.data / "demo_nli" / "dev.tsv"), "--output", str(tmp_path / "out.jsonl")]
        refusal(capsys, ["predict", str(trained), *words, *rows])


def test_ids_that_look_like_paths_are_ids(demo: Demo, tmp_path: Path) -> None:
    """No file is named after a row."""
    rows = [{"id": f"../../{number}", "text": f"red {number}", "label": "ab"[number % 2]} for number in range(8)]
    values = demo.run_values(tmp_path / "deep" / "run", subset={"colours": {"rows": 4}}, max_steps=1)
    tasks = {"colours": {"task_type": "classification", "labels": ["a", "b"], "max_length": 32}}
    data = {"colours": {"train": rows, "dev": rows}}
    mtdnn.train(progress=False, **{**values, "tasks": tasks, "data": data})
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert (tmp_path / "deep/run/subset/colours.ids").read_text(encoding="utf-8").count("../../") == 4
