"""All types of an encoder in one run with SMART: rows → prepared → trained, killed, resumed → measured → predicted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import mtdnn.task_types  # noqa: F401  registers them
from data_prep.demo import write_demo_encoder
from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs, task_def_from
from mtdnn.data.prepro import prepare
from mtdnn.runs.opened import open_run
from mtdnn.runs.train import train
from mtdnn.task_types.base import TASK_TYPES, TaskType
from tests.reference.interrupted import stopped_and_resumed

TYPES = [name for name in TASK_TYPES.names() if not TASK_TYPES.get(name).needs_decoder]


def sample_lines(task_type: TaskType, count: int) -> list[str]:
    """The three sample rows over and over, with ids of their own."""
    rows = [row.split("\t") for row in task_type.sample_rows]
    return ["\t".join([f"{number}", *rows[number % 3][1:]]) for number in range(count)]


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The values of a run over one task of each type, with an encoder made for their words, rows prepared."""
    folder = tmp_path_factory.mktemp("structured")
    blocks = {f"a_{name}": {**TASK_TYPES.get(name).sample_block, "max_length": 24, "batch_size": 4} for name in TYPES}
    (folder / "tasks.yml").write_text(yaml.safe_dump(blocks), encoding="utf-8")
    texts = []
    for name, block in blocks.items():
        task_type = TASK_TYPES.get(block["task_type"])(task_def_from(name, block))
        for split, count in (("train", 12), ("dev", 6)):
            path = folder / "data" / name / f"{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = sample_lines(task_type, count)
            texts += lines
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_demo_encoder(folder / "encoder", texts)
    tasks = load_task_defs(folder / "tasks.yml")
    prepare(tasks, data=folder / "data", encoder=folder / "encoder", out=folder / "prepared", num_workers=1)
    return {
        "tasks": str(folder / "tasks.yml"),
        "data": str(folder / "prepared"),
        "encoder": str(folder / "encoder"),
        "output": str(folder / "run"),
        "epochs": 2,
        "optimizer.lr": 1e-3,
        "regularizer": {"name": "smart", "epsilon": 1e-3},
        "checkpoint_every": 10,
    }


def test_a_run_over_all_task_types_resumes_and_predicts(values: dict[str, Any]) -> None:
    whole = train(load_run_config(overrides=values), progress=False)
    folder = Path(values["output"])
    assert set(whole) == {"_run", "_made_by", "_metrics", *(f"a_{name}" for name in TYPES)}

    interrupted = {**values, "output": str(folder.with_name("resumed"))}
    assert stopped_and_resumed(load_run_config(overrides=interrupted), step=15) == whole

    run = open_run(folder)
    for name, task in run.tasks.items():
        path = Path(values["data"]).with_name("data") / name / "dev.tsv"
        records = run.predict(name, path)[name]
        stored = (folder / "predictions" / f"{name}.dev.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["id"] for line in stored] == [str(number) for number in range(6)]
        assert [record["prediction"] for record in records] == [json.loads(line)["prediction"] for line in stored]
        ids, vectors = run.embed(path, task=name)
        assert len(ids) == 6 and vectors.shape == (6, 64), task.task_type
        alone = replace(run, tasks={name: task})
        assert (alone.embed(path)[1] == vectors).all(), task.task_type
