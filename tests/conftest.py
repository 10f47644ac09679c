"""What several tests share: a small copy of the demo corpora, an encoder made for them, and the rows prepared."""

from __future__ import annotations

import gc
import signal
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS = {"train": 60, "dev": 24}

# Tests that a shell has started in the background ignore Ctrl-C, and so would the commands that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Demo:
    """Paths of the demo, cut to a few rows of each task.

    Attributes:
        tasks: its definitions.
        data, encoder, prepared: folders.
    """

    tasks: Path
    data: Path
    encoder: Path
    prepared: Path

    def run_values(self, output: Path, **values: Any) -> dict[str, Any]:
        """Values of a run on these rows that takes seconds; dotted keys as on the command line."""
        return {
            "tasks": str(self.tasks),
            "data": str(self.prepared),
            "encoder": str(self.encoder),
            "output": str(output),
            "epochs": 2,
            "batch_size": 16,
            "optimizer.lr": 1e-3,
            "log_every": 3,
            **values,
        }


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo's four tasks with 60 training rows each, written, encoded and prepared once."""
    from data_prep.demo import read_texts, write_demo, write_demo_encoder
    from mtdnn.config.tasks import load_task_defs
    from mtdnn.data.prepro import prepare

    root = tmp_path_factory.mktemp("demo")
    paths = Demo(REPOSITORY / "task_defs" / "demo.yml", root / "data", root / "encoder", root / "prepared")
    write_demo(paths.data, seed=0)
    for path in paths.data.rglob("*.tsv"):
        with path.open(encoding="utf-8") as file:
            lines = list(islice(file, ROWS[path.stem]))
        path.write_text("".join(lines), encoding="utf-8")
    write_demo_encoder(paths.encoder, read_texts(paths.data), seed=0)
    prepare(load_task_defs(paths.tasks), data=paths.data, encoder=paths.encoder, out=paths.prepared, num_workers=1)
    return paths


@pytest.fixture(scope="session")
def demo_run(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the demo's four tasks, trained for a few steps; tests must not change it."""
    from mtdnn.runs.train import train

    output = tmp_path_factory.mktemp("demo_run") / "run"
    train(**demo.run_values(output, max_steps=6, epochs=1), progress=False)
    return output


def pytest_collection_finish() -> None:
    """Leave the objects of imported packages out of collections, which are slow with them; `train` ends with one."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def files_may_name_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `--trust` does, for tests of what dotted paths in files lead to."""
    monkeypatch.setenv("MTDNN_TRUST", "1")
