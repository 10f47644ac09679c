"""prepro and studies on a local Ray, or a stand-in for it: the same bytes as without, also after losses and kills."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtdnn.cli.main import main
from mtdnn.data import on_ray, prepro
from mtdnn.data.prepro import prepare
from mtdnn.errors import ConfigError, DataError
from mtdnn.rows.text import TextRows
from mtdnn.study.launchers import Here, Ray
from mtdnn.study.scheduler import run_cells
from tests.reference import ray_stand_in
from tests.reference.project import WORDS, Project, save_encoder
from tests.unit.study.test_study import breaks_for_seed_2_of_mrpc, grid_of, score_of_seed

encode = on_ray._encode


@pytest.fixture(scope="module", params=["stand-in", pytest.param("ray", marks=pytest.mark.slow)])
def ray(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A local Ray of two processes (slow: they take half a minute of CPU), or tasks that run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "stand-in":
            patch.setitem(sys.modules, "ray", ray_stand_in)
            yield ray_stand_in
            return
        ray = pytest.importorskip("ray", reason="ray is an optional extra: pip install 'mtdnn[ray]'")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the processes of Ray find these files
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: on a busy machine they would wait for all others
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two tasks, one with rows of a data set of the hub's form; files of several parts."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    found = Project(tmp_path)
    found.rows("nli/train", [f"n{number}\tyes_\tA kite {number}.\tThe lake." for number in range(300)])
    (tmp_path / "hub").mkdir()
    for split in ("train", "validation"):
        lines = ["text,label", *(f"A boat {number}.,{number / 7}" for number in range(50))]
        (tmp_path / "hub" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    source = f"source: {{path: {tmp_path / 'hub'}, splits: {{dev: validation}}}}"
    found.define(found.definitions.read_text().replace("max_length: 12", f"max_length: 12\n  {source}"))
    parts = TextRows.parts
    monkeypatch.setattr(TextRows, "parts", lambda self, size=1500: parts(self, size))
    save_encoder(tmp_path / "encoder", WORDS)
    return found


def prepared(project: Project, out: str, launcher: Any = "ray", **settings: Any) -> dict[Path, bytes]:
    """What a call writes below a folder: path → content."""
    root = project.data.parent
    given = {"data": project.data, "encoder": root / "encoder", "out": root / out, "num_workers": 1, **settings}
    prepare(project.tasks, launcher=launcher, **given)
    return {path.relative_to(root / out): path.read_bytes() for path in (root / out).rglob("*") if path.is_file()}


def test_files_and_data_sets_are_prepared_to_the_same_bytes_by_a_bounded_number_of_tasks(
    ray: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_flight: list[int] = []
    wait = ray.wait

    def counted(handles: list[Any], **settings: Any) -> Any:
        in_flight.append(len(handles))
        return wait(handles, **settings)

    monkeypatch.setattr(ray, "wait", counted)
    made = prepared(project, "by_ray", num_workers=None)
    assert made == prepared(project, "here", "local")
    assert max(in_flight) == on_ray.PER_CPU * 2 < len(in_flight)
    assert Path("like/dev/manifest.json") in made


def test_a_killed_call_resumes_with_the_parts_that_it_has(
    ray: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, by_tasks, missing = prepro.complete, on_ray._by_tasks, []

    def killed(plan: Any, due: Any, num_parts: Any, made: Any) -> None:
        for _ in range(4):
            next(made)
        raise KeyboardInterrupt

    def counted(*given: Any, **settings: Any) -> Any:
        missing.append(len(settings["missing"]))
        return by_tasks(*given, **settings)

    monkeypatch.setattr(on_ray, "_by_tasks", counted)
    monkeypatch.setattr(prepro, "complete", killed)
    with pytest.raises(KeyboardInterrupt):
        prepared(project, "by_ray", num_workers=2)
    monkeypatch.setattr(prepro, "complete", complete)
    made = prepared(project, "by_ray", num_workers=2)
    assert missing[1] <= missing[0] - 4
    assert made == prepared(project, "here", "local")


def lost_once(shared: Any, index: int, number: int, part: Any) -> None:
    """As a part whose machine is lost at the first attempt."""
    mark = Path(on_ray._received(shared[0])[2][index].folder / "lost")
    if number == 2 and not mark.exists():
        mark.touch()
        os._exit(9)
    encode(shared, index, number, part)


@pytest.mark.slow
@pytest.mark.parametrize("ray", ["ray"], indirect=True)
def test_a_part_whose_process_is_lost_is_encoded_again(
    ray: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "_encode", lost_once)
    assert prepared(project, "by_ray") == prepared(project, "here", "local")


def test_errors_in_rows_are_those_of_a_call_without_ray(ray: Any, project: Project) -> None:
    lines = [f"n{number}\tyes_\tA kite {number}.\tThe lake." for number in range(300)]
    project.rows("nli/train", [*lines[:100], "x\tmaybe\tA.\tB.", *lines[100:], lines[7]])
    found = []
    for launcher in ("ray", "local"):
        with pytest.raises(DataError) as caught:
            prepared(project, launcher, launcher)
        found.append(caught.value.faults)
    assert found[0] == found[1] and len(found[0]) == 2
    assert not (project.data.parent / "ray" / "nli").exists()


def test_rows_in_memory_are_sent_to_the_cluster(ray: Any, project: Project) -> None:
    rows = [{"premise": f"A kite {number}.", "hypothesis": "A lake.", "label": "no_"} for number in range(40)]
    settings = {"data": {"nli": {"train": rows, "dev": rows[:5]}}, "only": ["nli"]}
    assert prepared(project, "by_ray", **settings) == prepared(project, "here", "local", **settings)


def test_the_command_has_the_launcher_and_refuses_shards_with_it(
    ray: Any, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project.data.parent
    words = ["prepro", str(project.definitions), "--data", str(project.data), "--encoder", str(root / "encoder")]
    words += ["--out", str(root / "out"), "--launcher", "ray", "-q"]
    assert main([*words, "--shard", "1/2"]) == 2
    assert "--launcher: ray has no shards. Leave out --launcher, or --shard and --merge" in capsys.readouterr().err
    assert main(words) == 0
    assert (root / "out/nli/train/manifest.json").is_file()


def test_ray_that_is_not_installed_is_reported(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"ray is not installed. Install it with: pip install 'mtdnn\[ray\]'"):
        prepared(project, "by_ray")
    assert not (project.data.parent / "by_ray").exists()
    with pytest.raises(ConfigError, match=r"launcher: unknown launcher 'rai'; known: local, ray"):
        prepared(project, "by_ray", "rai")


# -- studies ---------------------------------------------------------------------------------------------------------


def test_a_study_runs_the_same_cells_to_the_same_results(ray: Any, tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    run_cells(grid, Here(score_of_seed), progress=False)
    other = grid_of(tmp_path, output=str(tmp_path / "other"))
    summary = run_cells(other, Ray(breaks_for_seed_2_of_mrpc, jobs=2), progress=False)
    assert (summary.finished, len(summary.broken)) == (7, 2)
    summary = run_cells(other, Ray(score_of_seed, jobs=2), progress=False)
    assert (summary.finished, summary.before) == (9, 7)
    assert (other.folder / "results.csv").read_bytes() == (grid.folder / "results.csv").read_bytes()
