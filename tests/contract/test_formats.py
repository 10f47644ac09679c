"""Every task type reads and encodes its sample rows, from files and from memory, without PyTorch in any process."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas
import pytest
from datasets import Dataset
from packaging.version import Version
from transformers import T5Config

import mtdnn
from data_prep.demo import train_tokenizer
from mtdnn.config.tasks import task_def_from
from mtdnn.config.yaml_source import dump_yaml
from mtdnn.data.arrow import DATA_FILE
from mtdnn.task_types.base import TASK_TYPES, TaskType

HEAVY = ("torch", "accelerate", "sklearn", "scipy", "matplotlib")
ROWS = ["tasks.yml", "--data", "."]
TOKENS = [*ROWS, "--encoder", "encoder"]
COMMANDS = {
    "check": (["check", *ROWS], (*HEAVY, "transformers", "datasets")),
    "check with an encoder": (["check", *TOKENS], (*HEAVY, "datasets")),
    "prepro": (["prepro", *TOKENS, "--out", "out", "--workers", "2"], HEAVY),
}
"""Command → what it must not import."""
EAGER = Version(version("transformers")) < Version("5.23")
"""Whether transformers itself imports parts of torch when it makes a tokenizer; 5.20 does, 5.23 does not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tasks.yml with a task of each type, their rows, and an encoder."""
    folder = tmp_path_factory.mktemp("formats")
    kinds = {f"of_{name}": TASK_TYPES.get(name) for name in TASK_TYPES}
    blocks = {name: {**kind.sample_block, "max_length": 24, "regularizer": "none"} for name, kind in kinds.items()}
    (folder / "tasks.yml").write_text(dump_yaml(blocks))
    for name, kind in kinds.items():
        (folder / name).mkdir()
        for split in ("train", "dev"):
            (folder / name / f"{split}.tsv").write_text("\n".join(kind.sample_rows) + "\n")
    cells = [cell for kind in kinds.values() for row in kind.sample_rows for cell in row.split("\t")]
    tokenizer = train_tokenizer(cells)
    tokenizer.save_pretrained(folder / "encoder")
    # Half of a pair, for the types that need a decoder; no command here reads weights.
    T5Config(vocab_size=len(tokenizer)).save_pretrained(folder / "encoder")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_rows_are_read_and_encoded_where_heavy_packages_cannot_be_imported(folder: Path, command: str) -> None:
    arguments, heavy = COMMANDS[command]
    if EAGER and "--encoder" in arguments:
        pytest.skip("this version of transformers imports torch")
    shadows = folder / f"shadows of {command}"
    for name in heavy:
        (shadows / name).mkdir(parents=True)
        (shadows / name / "__init__.py").write_text(f"raise RuntimeError('{name} was imported')")
    paths = os.pathsep.join([str(shadows), *filter(None, sys.path)])
    code = f"from mtdnn.cli.main import main; raise SystemExit(main({arguments}))"
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def in_memory(kind: type[TaskType], name: str) -> list[dict[str, object]]:
    """The sample rows of a type as dicts; what a .tsv repeats at the end of a row is a list."""
    task_type = kind(task_def_from(name, kind.sample_block))
    *names, last = task_type.columns
    rows = []
    for line in kind.sample_rows:
        cells = line.split("\t")
        first, rest = cells[: len(names)], cells[len(names) :]
        rows.append({**dict(zip(names, first, strict=True)), last: rest if task_type.repeats_last else rest[0]})
    return rows


def test_rows_of_every_type_are_stored_alike_whatever_holds_them(folder: Path, tmp_path: Path) -> None:
    """A .tsv, a list of dicts, a pandas DataFrame and a data set give the same bytes."""
    kinds = {f"of_{name}": TASK_TYPES.get(name) for name in TASK_TYPES}
    rows = {name: in_memory(kind, name) for name, kind in kinds.items()}
    holders = {"file": None, "list": list, "pandas": pandas.DataFrame, "datasets": Dataset.from_list}
    for holder, make in holders.items():
        held = {name: dict.fromkeys(("train", "dev"), make(each)) for name, each in rows.items()} if make else folder
        given = {"data": held, "encoder": folder / "encoder", "out": tmp_path / holder}
        mtdnn.prepare(folder / "tasks.yml", **given, num_workers=1, progress=False)
    for name in kinds:
        stored = [(tmp_path / holder / name / "train" / DATA_FILE).read_bytes() for holder in holders]
        assert [each == stored[0] for each in stored] == [True] * len(holders), name
