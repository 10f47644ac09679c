"""Every task type reads and encodes its sample rows without PyTorch, in the command and in its worker processes."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version
from transformers import T5Config

import mtdnn.task_types  # noqa: F401  registers them
from data_prep.demo import train_tokenizer
from mtdnn.config.yaml_source import dump_yaml
from mtdnn.task_types.base import TASK_TYPES

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
    blocks = {name: {**kind.sample_block, "max_length": 24} for name, kind in kinds.items()}
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
