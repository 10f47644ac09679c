"""Tasks that a run measures and does not train: forgetting, with the heads of the encoder's run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import mtdnn
from mtdnn.cli.main import main
from mtdnn.runs.folder import RunFolder
from mtdnn.training.checkpoint import read_weights
from tests.conftest import Demo


@pytest.fixture(scope="module")
def base(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks."""
    output = tmp_path_factory.mktemp("base") / "run"
    train = {"train": ["demo_nli", "demo_similarity"], "max_steps": 4}
    mtdnn.train(**demo.run_values(output, **train), progress=False)
    return output


def adapted(demo: Demo, base: Path, output: Path, **values: Any) -> dict[str, Any]:
    """The values of a run that starts from `base`, trains on one more task, and measures one of the others."""
    encoder = {"run": str(base), "heads": "keep", "checkpoint": "last"}
    more = {"encoder": encoder, "train": ["demo_target"], "also_evaluate": ["demo_nli"], "max_steps": 3, **values}
    return demo.run_values(output, **more)


def test_a_task_that_is_not_trained_keeps_its_head_and_is_measured(demo: Demo, base: Path, tmp_path: Path) -> None:
    results = mtdnn.train(**adapted(demo, base, tmp_path / "run"), progress=False)
    assert {name for name in results if not name.startswith("_")} == {"demo_target", "demo_nli"}
    assert results["demo_nli"]["dev"]["rows"] == 24
    before = read_weights(RunFolder(base).checkpoint("last"), "heads.demo_nli.")
    after = read_weights(RunFolder(tmp_path / "run").checkpoint("last"), "heads.demo_nli.")
    assert before and all(torch.equal(after[name], value) for name, value in before.items())


def test_with_a_frozen_encoder_nothing_is_forgotten(demo: Demo, base: Path, tmp_path: Path) -> None:
    """The encoder and the head are those of the first run: every score is the same."""
    mtdnn.train(**adapted(demo, base, tmp_path / "run", freeze_encoder=True, proximal="momentum"), progress=False)
    kept, first = (
        mtdnn.open_run(folder, checkpoint="last").evaluate(["demo_nli"], split="dev")["demo_nli"]["dev"]
        for folder in (tmp_path / "run", base)
    )
    assert kept == first


def test_the_best_checkpoint_is_selected_by_the_tasks_that_are_trained(
    demo: Demo, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtdnn.runs import measure

    asked: list[set[str]] = []
    score = measure.selection_score
    monkeypatch.setattr(
        measure, "selection_score", lambda results, *rest: asked.append(set(results)) or score(results, *rest)
    )
    mtdnn.train(**adapted(demo, base, tmp_path / "run"), progress=False)
    assert asked and all(tasks == {"demo_target"} for tasks in asked)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"also_evaluate": ["demo_nil"]},
            "also_evaluate: unknown task 'demo_nil'; known: demo_sentiment, demo_nli, demo_similarity. Did you mean "
            "'demo_nli'?",
        ),
        (
            {"also_evaluate": ["demo_target"]},
            "also_evaluate: this run trains on 'demo_target'. Remove it here, or leave it out of `train`.",
        ),
        (
            {"also_evaluate": ["demo_sentiment"]},
            "also_evaluate: unknown task of the encoder's run 'demo_sentiment'; known: demo_nli, demo_similarity.",
        ),
        (
            {"encoder.heads": "new"},
            "also_evaluate: tasks that this run does not train have no head to start from. Give encoder: {run: folder "
            "of the run that trained them, heads: keep}.",
        ),
    ],
    ids=["unknown", "trained", "not of the run", "new heads"],
)
def test_a_task_without_a_trained_head_is_refused_by_check_and_train(
    demo: Demo, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], values: dict[str, Any], line: str
) -> None:
    given = adapted(demo, base, tmp_path / "run")
    run = tmp_path / "run.yml"
    run.write_text(mtdnn.load_run_config(None, {**given, **values}).to_yaml())
    for command in (["check", str(demo.tasks), "--run", str(run)], ["train", str(run)]):
        assert main(command) == 2
        found = capsys.readouterr().err
        assert f"{run}:" in found and line in found
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_head_with_other_layers_is_refused_by_check_and_train(
    demo: Demo, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """`dense: none` leaves out the layer that the run before has, which only its weights and its family show."""
    tasks, run = tmp_path / "tasks.yml", tmp_path / "run.yml"
    head = "  head: {name: pooled, dense: none}"
    tasks.write_text(re.sub(r"^demo_nli:.*$", rf"\g<0>\n{head}", demo.tasks.read_text(), flags=re.MULTILINE))
    given = {**adapted(demo, base, tmp_path / "run"), "tasks": str(tasks)}
    run.write_text(mtdnn.load_run_config(None, given).to_yaml())
    assert main(["check", str(tasks), "--run", str(run)] if command == "check" else ["train", str(run)]) == 2
    line = f"demo_nli.head: its layers differ from those of the head in {base}. Give the definition"
    assert f"{tasks}:" in (found := capsys.readouterr().err) and line in found
