"""`sharding: full`: two and four processes over gloo end with the weights of one, and resume each other's runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mtdnn
from mtdnn.config.run import load_run_config
from mtdnn.runs.named import sharding_faults
from mtdnn.runs.opened import open_run
from mtdnn.runs.train import train
from tests.conftest import REPOSITORY, Demo
from tests.end_to_end.test_generation import TASKS as OF_T5
from tests.end_to_end.test_generation import rows_of, write_t5
from tests.reference.forks import launched

WORKER = str(REPOSITORY / "tests" / "end_to_end" / "several_runs.py")
LR, STEPS = 1e-3, 4
SMART = {"name": "smart", "epsilon": 1e-3, "eta": 1e-3}
NOT_DETERMINED = "key.bias"
"""Attention does not depend on the bias of keys: its gradient is rounding alone, and AdamW moves it by the sign."""


@pytest.fixture(scope="module")
def world(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Values of a run without dropout, whose masks every process draws for its own rows: inference, and masked words
    by a head that has the encoder's word embeddings."""
    folder = tmp_path_factory.mktemp("sharding")
    shutil.copytree(demo.encoder, folder / "encoder")
    config = folder / "encoder" / "config.json"
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps({**json.loads(config.read_text()), **off}))
    shutil.copytree(demo.data / "demo_nli", folder / "data" / "demo_nli")
    lines = (demo.data / "demo_sentiment" / "train.tsv").read_text().splitlines()
    (folder / "data" / "words").mkdir()
    for split, rows in (("train", lines[:40]), ("dev", lines[40:50])):
        text = "".join(line.split("\t")[2] + "\n" for line in rows)
        (folder / "data" / "words" / f"{split}.txt").write_text(text)
    nli = yaml.safe_load(demo.tasks.read_text())["demo_nli"]
    words = {"task_type": "masked_lm", "inputs": ["text"], "max_length": 64, "splits": nli["splits"]}
    blocks = {"demo_nli": {**nli, "dropout": 0.0}, "words": {**words, "dropout": 0.0}}
    tasks = folder / "tasks.yml"
    tasks.write_text(yaml.safe_dump(blocks))
    places = {"data": str(folder / "prepared"), "encoder": str(folder / "encoder"), "tasks": str(tasks)}
    mtdnn.prepare(tasks, data=folder / "data", encoder=places["encoder"], out=places["data"], num_workers=1)
    return {
        **places, "max_steps": STEPS, "batch_size": 8, "eval_batch_size": 5, "optimizer": {"lr": LR}, "threads": 1,
        "log_every": 1, "evaluate_every": "never", "checkpoint_every": 2, "trackers": "none", "schedule": "constant",
    }  # fmt: skip


def trained_alone(values: dict[str, Any], output: Path) -> dict[str, torch.Tensor]:
    """The last weights of a run in this process."""
    train(load_run_config(None, {**values, "output": str(output)}), progress=False)
    return weights_of(output)


def trained_by(processes: int, *runs: Path) -> None:
    status, _, errors = launched(processes, WORKER, *map(str, runs))
    assert status == 0, errors[:3000] + errors[-3000:]


def written(values: dict[str, Any], output: Path) -> Path:
    """The file of a run with `sharding: full`."""
    file = output.with_suffix(".yml")
    file.write_text(yaml.safe_dump({**values, "sharding": "full", "output": str(output)}))
    return file


def weights_of(run: Path, kind: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / kind / "model.safetensors")


def require_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, within: float = 0.1) -> None:
    """Weights differ by less than a tenth of what a step moves them: sums in another order, in float32, some steps of
    AdamW."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if NOT_DETERMINED not in name:
            torch.testing.assert_close(other[name], value, rtol=0, atol=within * LR, msg=name)


def back_at(run: Path, step: int) -> None:
    """Leave of a run what it had right after a step."""
    for path in (*(run / "checkpoints").glob("step-*"), run / "last", run / "best"):
        if path.name != f"step-{step}":
            shutil.rmtree(path)
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log.jsonl").write_text("".join(line for line in lines if json.loads(line).get("step", 0) <= step))


def test_two_processes_train_what_one_does_and_one_resumes_them(world: dict[str, Any], tmp_path: Path) -> None:
    """With the proximal term's teacher, parts of batches, tied word embeddings, an average, clipping and a checkpoint
    that has it all; then from the checkpoint in one process."""
    more = {"regularizer": SMART, "proximal": "momentum", "accumulate": 2, "ema": 0.5, "clip_norm": 0.5}
    one = trained_alone({**world, **more}, tmp_path / "one")
    run = tmp_path / "two"
    trained_by(2, written({**world, **more}, run))
    require_equal(one, weights_of(run))
    start = load_file(run / "checkpoints" / "step-2" / "model.safetensors")
    assert max((one[name] - start[name]).abs().max() for name in one) > LR / 2
    back_at(run, 2)
    train(load_run_config(written({**world, **more}, run)), resume=True, progress=False)
    require_equal(one, weights_of(run))
    records = open_run(run).predict("demo_nli", [("The kite flies.", "It falls.")])["demo_nli"]
    assert sum(records[0]["scores"].values()) == pytest.approx(1)


EACH = {
    "adversarial": {"regularizer": "adversarial"},
    "free_lb": {"regularizer": "free_lb"},
    "free_at, several moves in a step": {"regularizer": {"name": "free_at", "steps": 2}},
    "r_drop": {"regularizer": "r_drop"},
    "r3f": {"regularizer": "r3f"},
    "vat": {"regularizer": "vat"},
    "smart-mtdnn-release": {"regularizer": {"name": "smart-mtdnn-release", "embeddings": "block"}},
    "recomputed layers": {"regularizer": SMART, "gradient_checkpointing": True},
    "learned weights of losses": {"balance": "uncertainty", "tasks_per_step": 2},
    "weights after the backward pass": {"balance": "famo", "tasks_per_step": 2},
    "frozen encoder": {"freeze_encoder": True, "proximal": "momentum"},
    "no clipping, momentum": {"clip_norm": None, "optimizer": {"name": "sgd", "lr": 1e-2, "momentum": 0.9}},
    "padded rows": {"execution": "padded", "regularizer": SMART},
    "fp16, whose scale processes agree on": {
        "precision": "fp16",
        "regularizer": {**SMART, "epsilon": 0.01, "eta": 0.01},
        "optimizer": {"name": "sgd", "lr": LR},
    },
}


@pytest.mark.slow
def test_every_method_gives_the_weights_of_one_process(world: dict[str, Any], tmp_path: Path) -> None:
    """Two steps of each; masked words are left out where the method is for classes."""
    short = {**world, "max_steps": 2, "checkpoint_every": "never", "train": ["demo_nli"]}
    runs = {}
    for number, more in enumerate(EACH.values()):
        both = {"train": ["demo_nli", "words"]} if "tasks_per_step" in more else {}
        runs[tmp_path / f"two-{number}"] = {**short, **both, **more}
    trained_by(2, *(written(values, run) for run, values in runs.items()))
    for run, values in runs.items():
        require_equal(trained_alone(values, run.with_name(run.name + "-one")), weights_of(run))


@pytest.mark.slow
def test_four_processes_resume_two_and_one(world: dict[str, Any], tmp_path: Path) -> None:
    """Some weights of the small encoder have fewer rows than fill four parts."""
    more = {"regularizer": SMART, "proximal": "momentum", "ema": 0.5}
    one, alone = trained_alone({**world, **more}, tmp_path / "one"), tmp_path / "one"
    trained_by(2, written({**world, **more}, tmp_path / "two"))
    back_at(tmp_path / "two", 2)
    back_at(alone, 2)
    files = [written({**world, **more}, run) for run in (tmp_path / "two", alone)]
    trained_by(4, *(Path(f"{file}:resume") for file in files), written({**world, **more}, tmp_path / "four"))
    for run in (tmp_path / "two", alone, tmp_path / "four"):
        require_equal(one, weights_of(run))


@pytest.mark.slow
def test_layers_are_gathered_in_bf16(world: dict[str, Any], tmp_path: Path) -> None:
    """Three significant digits: weights within a few moves of a run in one process, after four of them."""
    kept = {"precision": "bf16", "execution": {"products": "torch"}}  # also where float32 is faster
    values = {**world, **kept, "train": ["demo_nli"], "regularizer": {**SMART, "epsilon": 0.01, "eta": 0.01}}
    trained_by(2, written(values, tmp_path / "two"))
    one, two = trained_alone(values, tmp_path / "one"), weights_of(tmp_path / "two")
    moved = {name: (one[name] - two[name]).abs().mean() for name in one if NOT_DETERMINED not in name}
    assert max(moved.values()) < LR
    assert all(value.dtype == torch.float32 for value in two.values())


@pytest.mark.slow
def test_an_encoder_decoder_is_divided_with_its_decoder(tmp_path: Path) -> None:
    """T5 has its word embeddings in three places; two steps."""
    texts = [f"{word} bell near the old {thing}" for word in ("red", "wet", "dry", "odd") for thing in ("oak", "jug")]
    write_t5(tmp_path / "t5", texts)
    rows = rows_of(texts, "train")
    mtdnn.prepare(
        OF_T5, data={name: {"train": rows[name], "dev": rows[name]} for name in OF_T5}, encoder=tmp_path / "t5",
        out=tmp_path / "prepared", num_workers=1,
    )  # fmt: skip
    tasks = tmp_path / "tasks.yml"
    splits = {"splits": {"train": "train", "dev": "dev"}, "dropout": 0.0}
    tasks.write_text(yaml.safe_dump({name: {**block, **splits} for name, block in OF_T5.items()}))
    values = {
        "tasks": str(tasks), "data": str(tmp_path / "prepared"), "encoder": str(tmp_path / "t5"), "max_steps": 2,
        "batch_size": 4, "optimizer": {"lr": LR}, "threads": 1, "trackers": "none", "schedule": "constant",
    }  # fmt: skip
    trained_by(2, written(values, tmp_path / "two"))
    require_equal(trained_alone(values, tmp_path / "one"), weights_of(tmp_path / "two"))


def test_what_a_divided_run_cannot_do_is_refused_with_the_reason() -> None:
    places = {"tasks": "t", "data": "d", "encoder": "e", "output": "o", "sharding": "full"}
    keys = {
        "balance": "pcgrad", "log_conflicts": 2, "log_affinity": 2, "log_gradients": True, "adapter": "lora",
        "compile": True,
    }  # fmt: skip
    found = [str(each) for each in sharding_faults(load_run_config(None, {**places, **keys}))]
    assert [line.split(":")[0] for line in found] == list(keys)
    assert found[0] == (
        "balance: needs the gradient of each task, and no process has all of it, as sharding is full. "
        "Leave it out, or set sharding: none."
    )
    assert sharding_faults(load_run_config(None, {**places, "balance": "famo", "ema": 0.9})) == []
    assert sharding_faults(load_run_config(None, {**places, **keys, "sharding": "none"})) == []
