"""A folder with everything a run needs, so small that a run takes less than a second; nothing is downloaded."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from mtdnn.cli.main import main
from tests.reference.project import WORDS, Project, save_encoder

RUN = """\
tasks: tasks.yml
data: prepared
encoder: encoder
output: run
max_steps: 6
batch_size: 2
optimizer: {lr: 1e-3}
evaluate_every: 3
checkpoint_every: 2
keep_checkpoints: 2
log_every: 2
proximal: momentum
"""

STUDY = """\
output: study
run: {tasks: tasks.yml, data: prepared, encoder: encoder, batch_size: 2, max_steps: 2, optimizer: {lr: 1e-3}}
stages:
  first: {run: {train: [nli]}, axes: {seed: [1, 2]}, keep: results}
"""

PREPRO = "prepro tasks.yml --data data --encoder encoder --out prepared --workers 1"


def make_world(folder: Path) -> Path:
    """Definitions, rows with a test split, an encoder with weights, prepared rows, run.yml and study.yml."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project(folder)
    project.rows("nli/test", ["t1\t\tA boat.\tThe barn.", "t2\t\tThe kite.\tA red kite."])
    save_encoder(folder / "encoder", WORDS)
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vocabulary = BertConfig.from_pretrained(folder / "encoder").vocab_size
    config = BertConfig(vocab_size=vocabulary, max_position_embeddings=64, **shape)
    BertModel(config).save_pretrained(folder / "encoder")
    (folder / "run.yml").write_text(RUN)
    (folder / "study.yml").write_text(STUDY)
    with contextlib.chdir(folder):
        succeed(PREPRO)
    return folder


def succeed(command: str) -> str:
    """What a command that has to succeed prints, errors included."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main(command.split())
    assert status == 0, printed.getvalue()
    return printed.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    """Path below a folder → content of every file there; a folder without files counts as an empty file."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{path.relative_to(folder)}/"] = b""
    return found
