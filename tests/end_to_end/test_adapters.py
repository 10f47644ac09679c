"""Runs with an adapter: what a checkpoint holds, what it starts and resumes from, what leaves it by export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import mtdnn
from mtdnn.cli.main import main
from mtdnn.config.run import load_run_config
from mtdnn.errors import ConfigError, DataError
from mtdnn.runs.opened import open_run
from mtdnn.runs.train import train
from mtdnn.training.signals import Interrupted
from mtdnn.training.trainer import Trainer
from tests.conftest import Demo
from tests.end_to_end.test_resume import assert_same_run

TASKS = ["demo_nli", "demo_similarity"]
SETTINGS: dict[str, Any] = {
    "train": TASKS, "epochs": 1, "checkpoint_every": 3, "regularizer": "smart", "proximal": "momentum",
    "adapter": {"name": "lora", "rank": 4, "scope": "task"},
}  # fmt: skip


def trained(demo: Demo, output: Path, **values: Any) -> Path:
    train(load_run_config(None, demo.run_values(output, **{**SETTINGS, **values})), progress=False)
    return output


@pytest.fixture(scope="module")
def run(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return trained(demo, tmp_path_factory.mktemp("adapters") / "run")


def test_a_checkpoint_holds_what_was_trained_and_says_what_it_is_over(demo: Demo, run: Path) -> None:
    weights = load_file(run / "best" / "model.safetensors")
    adapters = [name for name in weights if ".lora_" in name]
    assert {name.split(".lora_")[1].split(".")[1] for name in adapters} == set(TASKS)
    assert all(name.startswith("heads.") for name in weights.keys() - set(adapters))
    parts = json.loads((run / "best" / "encoder" / "parts.json").read_text())
    assert parts["base"]["encoder"] == str(demo.encoder)
    assert parts["adapter"]["rank"] == 4 and parts["adapter"]["alpha"] == 16.0
    assert (parts["tasks"], parts["execution"]["layout"]) == (TASKS, "packed")
    assert parts["pooling"] == dict.fromkeys(TASKS, "first")
    teacher = torch.load(next((run / "checkpoints").glob("step-*")) / "training.pt")["objective"]["proximal"]["teacher"]
    assert teacher.keys() == weights.keys()


def test_a_killed_run_resumes_and_ends_with_bit_identical_weights(
    demo: Demo, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.train_step

    def stopping(trainer: Trainer, parts: Any) -> None:
        if trainer.progress.step == 5:
            raise Interrupted(15, 5)
        step(trainer, parts)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Trainer, "train_step", stopping)
        trained(demo, tmp_path / "run")
    config = load_run_config(None, demo.run_values(tmp_path / "run", **SETTINGS))
    train(config, resume=True, progress=False)
    assert_same_run(run, tmp_path / "run")


def test_tasks_predicted_together_are_predicted_as_apart(demo: Demo, run: Path) -> None:
    opened = open_run(run)
    rows = [("A dog runs .", "A dog sleeps ."), ("It rained .", "The street is wet .")]
    together = opened.predict(TASKS, rows)
    for task in TASKS:
        assert together[task] == opened.predict(task, rows)[task]


def test_a_run_starts_from_another_with_its_adapter_without_naming_it(demo: Demo, run: Path, tmp_path: Path) -> None:
    values = {"adapter": None, "encoder": {"run": str(run), "heads": "keep"}, "max_steps": 1, "optimizer.lr": 1e-9}
    found = trained(demo, tmp_path / "next", **values, train=["demo_nli", "demo_target"])
    first, second = (load_file(folder / "last" / "model.safetensors") for folder in (run, found))
    first = load_file(run / "best" / "model.safetensors")
    kept = [name for name in first if "demo_nli" in name]
    assert kept and all(torch.allclose(first[name], second[name], atol=1e-6) for name in kept)
    assert any("lora_A.demo_target" in name for name in second)
    parts = json.loads((found / "best" / "encoder" / "parts.json").read_text())
    assert parts["base"]["encoder"] == str(demo.encoder)


def test_another_adapter_than_that_of_the_earlier_run_is_refused(demo: Demo, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter: .*rank: 2.*, but the run it starts from has .*rank: 4.*Leave"):
        trained(demo, tmp_path / "next", adapter={"name": "lora", "rank": 2}, encoder={"run": str(run)})
    assert not (tmp_path / "next").exists()


def test_an_adapter_over_a_fine_tuned_run_finds_its_weights_in_that_run(demo: Demo, tmp_path: Path) -> None:
    plain = trained(demo, tmp_path / "plain", adapter=None, regularizer=None, proximal=None, max_steps=2)
    over = trained(demo, tmp_path / "over", adapter="ia3", encoder={"run": str(plain)}, max_steps=2)
    rows = [("A dog runs .", "A dog sleeps .")]
    before = open_run(over).predict("demo_nli", rows)
    assert json.loads((over / "best/encoder/parts.json").read_text())["base"]["encoder"]["run"] == str(plain)
    shutil.rmtree(plain)
    with pytest.raises(DataError, match=r"the frozen weights of its adapter were read from '.*plain'.*Put them back"):
        open_run(over)
    assert before


def test_frozen_weights_that_have_changed_are_refused(demo: Demo, tmp_path: Path) -> None:
    encoder = shutil.copytree(demo.encoder, tmp_path / "encoder")
    found = trained(demo, tmp_path / "run", encoder=str(encoder), max_steps=1)
    weights = load_file(encoder / "model.safetensors")
    name = next(name for name in weights if "query.weight" in name)
    weights[name] = weights[name] + 1
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        DataError, match=r"best: its adapter was trained over other weights .*SHA-256 .*Put the earlier"
    ):
        open_run(found)


def test_an_exported_task_has_its_adapter_merged_and_gives_equal_logits(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--task", "demo_nli", "--output", str(tmp_path / "out")]) == 0
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert not [name for name in exported.state_dict() if "lora" in name]
    opened = open_run(run)
    ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(1))
    rows = mtdnn.batch.Batch("demo_nli", {"input_ids": ids, "mask": torch.ones_like(ids).bool()}, None, list("abc"))
    with torch.inference_mode():
        wanted = opened.model(rows)
        torch.testing.assert_close(exported(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-5)


def test_another_pooling_than_a_checkpoint_was_trained_with_is_refused(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    text = (copied / "tasks.yml").read_text()
    (copied / "tasks.yml").write_text(text.replace("demo_nli:\n", "demo_nli:\n  head: {name: pooled, pooling: mean}\n"))
    with pytest.raises(DataError, match=r"demo_nli.head.pooling: mean, but .*trained with first. Undo the change"):
        open_run(copied)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("adapter: lorra", r"run.yml:2: adapter: unknown adapter 'lorra'.*Did you mean 'lora'"),
        ("adapter: {name: lora, rank: 0}", r"run.yml:2: adapter.rank: .*greater than or equal to 1"),
        ("adapter: {name: ia3, rank: 4}", r"run.yml:2: adapter.rank: unknown key 'rank'.*option of dora, lora"),
        ("adapter: {name: lora, scope: layer}", r"run.yml:2: adapter.scope: .*'shared' or 'task'"),
        ("adapter: lora\nfreeze_encoder: true", r"run.yml:3: freeze_encoder: .*no adapter.*Leave it out"),
    ],
)
def test_check_refuses_a_bad_adapter_with_its_line(
    demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reported: str
) -> None:
    path = tmp_path / "run.yml"
    path.write_text(f"tasks: {demo.tasks}\n{text}\ndata: {demo.prepared}\nencoder: {demo.encoder}\noutput: out\n")
    with pytest.raises(ConfigError, match=reported):
        train(path)
    assert main(["check", str(demo.tasks), "--run", str(path), "--data", str(demo.data)]) == 2
