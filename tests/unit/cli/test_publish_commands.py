"""Where `mtdnn export` writes without --output, and that it overwrites nothing."""

from types import SimpleNamespace

import pytest

from mtdnn.cli.main import main
from mtdnn.publishing import onnx_export
from mtdnn.runs import export, opened

ONNX, INT8 = ("--format", "onnx"), ("--format", "onnx", "--int8")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The folder of a run of two tasks, of which exports are empty folders."""
    found = SimpleNamespace(
        folder=SimpleNamespace(path=tmp_path / "run"),
        tasks={"nli": None, "qa": None},
        model=None,
        tokenizer=SimpleNamespace(pads_with_id=0, save=None),
    )
    monkeypatch.setattr(opened, "open_run", lambda run, checkpoint: found)
    monkeypatch.setattr(export, "export_task", lambda model, task, folder, **_: folder.mkdir(parents=True))
    monkeypatch.setattr(onnx_export, "export_onnx", lambda run, tasks, folder: folder.mkdir(parents=True) or 0.0)
    monkeypatch.setattr(
        onnx_export, "export_int8", lambda run, tasks, folder, data: (folder.mkdir(parents=True) or 0.0, 1.0, [])
    )
    monkeypatch.setattr(onnx_export, "megabytes", lambda folder: 1.0)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--task", "nli"), "nli-hf"),
        (("--task", "nli", "--format", "hf"), "nli-hf"),
        (("--task", "qa", *ONNX), "qa-onnx"),
        (ONNX, "onnx"),
        (("--task", "nli,qa", *ONNX), "onnx"),
        (("--task", "nli", *INT8), "nli-onnx-int8"),
        (INT8, "onnx-int8"),
    ],
)
def test_without_output_an_export_is_in_the_run_and_overwrites_nothing(words, name, run, capsys):
    folder = run / "export" / name
    assert main(["export", str(run), *words]) == 0
    assert [path.name for path in (run / "export").iterdir()] == [name] and str(folder) in capsys.readouterr().out
    assert main(["export", str(run), *words]) == 2
    assert capsys.readouterr().err == f"--output: '{folder}' exists. Name a new folder.\n"


def test_an_export_goes_to_the_folder_that_is_named(run, tmp_path):
    assert main(["export", str(run), "--task", "nli", "--output", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine").is_dir() and not run.exists()


def test_a_run_on_the_hub_has_no_folder_to_export_to(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "me/x", "--task", "nli"]) == 2
    assert capsys.readouterr().err == (
        "--output: is missing, and the run 'me/x' has no folder of yours to write to. Name a new folder.\n"
    )
