"""Tasks with the SAN head over an encoder without segment ids: prepared, trained with SMART, resumed, predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

import mtdnn.task_types  # noqa: F401  registers them
from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare
from mtdnn.networks.heads import PooledHead
from mtdnn.networks.san import SanHead
from mtdnn.runs.opened import open_run
from mtdnn.runs.setup import Setup
from mtdnn.runs.train import train
from mtdnn.task_types.base import TASK_TYPES
from tests.reference.interrupted import stopped_and_resumed
from tests.reference.project import save_encoder

TYPES = ("classification", "regression", "ranking", "multiple_choice")


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The values of a run over one task of each type that reads pairs, with a DistilBERT of random weights."""
    folder = tmp_path_factory.mktemp("san")
    blocks, words = {}, set()
    for name in TYPES:
        kind = TASK_TYPES.get(name)
        blocks[f"a_{name}"] = {
            **kind.sample_block, "max_length": 24, "batch_size": 4, "head": {"name": "san", "turns": 3},
        }  # fmt: skip
        rows = [row.split("\t") for row in kind.sample_rows]
        words |= {word.strip(".?").lower() for row in rows for cell in row for word in cell.split()}
        for split, count in (("train", 12), ("dev", 6)):
            path = folder / "data" / f"a_{name}" / f"{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = ["\t".join([str(number), *rows[number % 3][1:]]) for number in range(count)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tasks.yml").write_text(yaml.safe_dump(blocks), encoding="utf-8")
    encoder = save_encoder(folder / "encoder", sorted(words), segments=False)
    torch.manual_seed(0)
    size = len(AutoTokenizer.from_pretrained(encoder))
    config = DistilBertConfig(vocab_size=size, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32)
    DistilBertModel(config).save_pretrained(encoder)
    prepare(
        load_task_defs(folder / "tasks.yml"),
        data=folder / "data",
        encoder=encoder,
        out=folder / "prepared",
        num_workers=1,
    )
    return {
        "tasks": str(folder / "tasks.yml"),
        "data": str(folder / "prepared"),
        "encoder": str(encoder),
        "output": str(folder / "run"),
        "epochs": 2,
        "optimizer.lr": 1e-3,
        "regularizer": {"name": "smart", "epsilon": 1e-3},
        "proximal": {"name": "momentum"},
        "checkpoint_every": 5,
    }


def test_a_run_of_san_heads_resumes_to_the_same_results_and_predicts(values: dict[str, Any]) -> None:
    whole = train(load_run_config(overrides=values), progress=False)
    folder = Path(values["output"])
    interrupted = {**values, "output": str(folder.with_name("resumed"))}
    assert stopped_and_resumed(load_run_config(overrides=interrupted), step=13) == whole

    run = open_run(folder)
    for name in run.tasks:
        head = run.model.heads[name]
        assert isinstance(head, SanHead) and head.turns == 3
        path = Path(values["data"]).with_name("data") / name / "dev.tsv"
        stored = (folder / "predictions" / f"{name}.dev.jsonl").read_text(encoding="utf-8").splitlines()
        found = run.predict(name, path)[name]
        assert [each["prediction"] for each in found] == [json.loads(line)["prediction"] for line in stored]


def test_heads_of_an_earlier_run_are_kept_where_they_are_of_the_same_kind(values: dict[str, Any]) -> None:
    folder = Path(values["output"])
    blocks = yaml.safe_load(Path(values["tasks"]).read_text(encoding="utf-8"))
    blocks["a_classification"]["head"] = "pooled"
    path = folder.with_name("other.yml")
    path.write_text(yaml.safe_dump(blocks), encoding="utf-8")
    again = {**values, "tasks": str(path), "encoder": {"run": str(folder), "heads": "keep"}, "output": "none"}
    model = Setup.of(load_run_config(overrides=again)).model
    kept = open_run(folder).model.heads["a_regression"].state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.heads["a_regression"].state_dict().items())
    assert isinstance(model.heads["a_classification"], PooledHead)


def test_texts_in_memory_are_distinguished_too(values: dict[str, Any]) -> None:
    run = open_run(values["output"])
    pairs = [("Rain.", "It rained all night."), ("It rained all night.", "Rain.")]
    scores = [record["scores"] for record in run.predict("a_classification", pairs)["a_classification"]]
    assert scores[0] != scores[1]
