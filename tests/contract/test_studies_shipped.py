"""Every study that ships loads, names tasks and options that exist, and has its README."""

from pathlib import Path

import pytest

from mtdnn.config.run import load_run_config
from mtdnn.runs.named import task_faults
from mtdnn.study.checks import require_known_splits
from mtdnn.study.load import load_study
from mtdnn.study.size import tasks_of
from mtdnn.task_types.base import TASK_TYPES
from tests.conftest import REPOSITORY

STUDIES = sorted(path for path in (REPOSITORY / "experiments").glob("*/*.yml") if "stages:" in path.read_text())
GIVEN = dict.fromkeys(("mt_dnn", "mt_dnn_smart", "upstream"), "runs/a") | {"encoder": "an/encoder", "data": "prepared"}


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_a_shipped_study_loads_and_its_words_are_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mtdnn.regularizers
    from mtdnn.data.samplers import SAMPLERS
    from mtdnn.regularizers.base import REGULARIZERS

    assert mtdnn.regularizers
    monkeypatch.chdir(REPOSITORY)
    declared = [name for name in GIVEN if f"{name}:" in path.read_text().split("\nrun:")[0]]
    grid = load_study(path, variables={name: GIVEN[name] for name in declared})
    assert len({cell.name for cell in grid.cells}) == len(grid.cells)
    require_known_splits(grid)
    for cell in grid.cells[:: max(1, len(grid.cells) // 50)]:
        SAMPLERS.get(cell.config.mixing.name)
        if cell.config.regularizer is not None:
            REGULARIZERS.get(cell.config.regularizer.name)
        assert task_faults(cell.config, cell.definitions) == []
        for task in tasks_of(cell).values():
            assert TASK_TYPES.get(task.task_type).faults(task) == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in STUDIES}), ids=lambda path: path.name)
def test_a_study_reports_what_it_is_and_how_to_run_it(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"{folder.name}/{path.name}" in text for path in STUDIES if path.parent == folder)


def test_the_run_of_one_multi_task_model_is_that_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    run = load_run_config("experiments/glue/mtdnn_smart.yml")
    cells = load_study(REPOSITORY / "experiments/glue/full.yml").cells
    of_study = [each.config for each in cells if each.stage == "multi_task" and each.config.regularizer is not None]
    assert run in [each.model_copy(update={"output": run.output}) for each in of_study]
