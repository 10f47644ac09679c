"""What a run logs in W&B (offline), MLflow, trackio and Aim (local stores), read back from there."""

import json
import signal
import struct
import sys
import types
from pathlib import Path

import pytest

import mtdnn
from mtdnn.config.run import RunConfig
from mtdnn.training.signals import Interrupted
from mtdnn.training.trackers import IDS, Trackers, study_of, tracker_faults
from mtdnn.training.trainer import Trainer


def logged(folder):
    """Name → step → value of what log.jsonl has."""
    found = {}
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for task, values in record.get("train", {}).items():
            for name, value in values.items():
                found.setdefault(f"train/{task}/{name}", {})[record["step"]] = value
        if "evaluation" in record:
            found.setdefault("run/score", {})[record["step"]] = record["score"]
    return found


def interrupted_after(monkeypatch, step):
    """Training is stopped by a signal after this step, once."""
    advance, stopped = Trainer._advance, []

    def and_stop(self):
        advance(self)
        if self.progress.step == step and not stopped:
            stopped.append(step)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_advance", and_stop)


def stopped_and_resumed(demo, output, monkeypatch, *trackers, steps=4):
    """Ids of a run's runs in its trackers, the same before and after a resumption in the middle."""
    values = demo.run_values(output, max_steps=steps, train=["demo_nli"], trackers=list(trackers), log_every=1)
    with monkeypatch.context() as patch:
        interrupted_after(patch, steps // 2)
        with pytest.raises(Interrupted):
            mtdnn.train(**values, progress=False)
    first = json.loads((output / IDS).read_text(encoding="utf-8"))
    mtdnn.train(**values, progress=False, resume=True)
    assert json.loads((output / IDS).read_text(encoding="utf-8")) == first
    return first


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    """MLflow with a store of its own."""
    found = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    found.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield found
    while found.active_run() is not None:
        found.end_run()


def test_mlflow_has_every_value_and_a_resumed_run_continues_its_run(demo, tmp_path, monkeypatch, mlflow):
    output = tmp_path / "run"
    first = stopped_and_resumed(demo, output, monkeypatch, "mlflow", steps=6)
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'mtdnn'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == first["mlflow"] and run.info.run_name == "run"
    assert run.data.params["optimizer.lr"] == "0.001" and not (output / "tensorboard").exists()
    for name, steps in logged(output).items():
        history = {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)}
        assert history == pytest.approx(steps), name


def test_wandb_offline_keeps_one_run_over_a_resumption(demo, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    output = tmp_path / "run"
    tracker = {"name": "wandb", "project": "demo", "group": "two", "mode": "offline"}
    first = stopped_and_resumed(demo, output, monkeypatch, "tensorboard", tracker)
    stored = sorted((output / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(stored) == 2 and {path.name for path in stored} == {f"run-{first['wandb']}.wandb"}
    records = [record for path in stored for record in wandb_records(path)]
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {(each.project, each.run_group) for each in runs} == {("demo", "two")}
    written = logged(output)
    name = "train/demo_nli/task"
    assert wandb_history(records, name) == pytest.approx(written[name])
    assert list((output / "tensorboard").glob("events.*"))


BLOCK, HEADER = 32768, 7


def wandb_records(path):
    """The records of an offline run's file: LevelDB's log format after 7 bytes of W&B's own, by its documentation.

    Each block of 32768 bytes has pieces: checksum (4 bytes), length (2), kind (1: whole, 2: first, 3: middle, 4: last).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), HEADER, b""
    assert data.startswith(b":W&B")
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_history(records, name):
    """Step → value of a metric."""
    found = {}
    for record in records:
        items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        if name in items:
            found[int(items["_step"])] = json.loads(items[name])
    return found


def test_a_study_groups_its_cells(tmp_path):
    folder = tmp_path / "lengths" / "cells" / "fine" / "seed-1" / "run"
    folder.mkdir(parents=True)
    assert study_of(folder) is None
    (tmp_path / "lengths" / "study.json").write_text("{}", encoding="utf-8")
    assert study_of(folder) == "lengths"


def test_cells_of_a_study_have_its_name_in_mlflow(tmp_path, mlflow):
    given = RunConfig(tasks="t", data="d", encoder="e", output="o", trackers="mlflow").trackers
    for seed in (1, 2):
        folder = tmp_path / "lengths" / "cells" / "fine" / f"seed-{seed}" / "run"
        folder.mkdir(parents=True)
        (tmp_path / "lengths" / "study.json").touch()
        trackers = Trackers(given, folder, settings={"seed": seed}, group=study_of(folder))
        trackers.log({"run/score": seed / 2}, 1)
        trackers.close()
    runs = mlflow.search_runs(experiment_names=["mtdnn"], filter_string="tags.study = 'lengths'", output_format="list")
    assert {(run.info.run_name, run.data.metrics["run/score"]) for run in runs} == {
        ("fine-seed-1", 0.5),
        ("fine-seed-2", 1.0),
    }


def test_none_logs_nowhere_but_in_the_folder(demo, tmp_path):
    mtdnn.train(**demo.run_values(tmp_path / "run", max_steps=1, train=["demo_nli"], trackers="none"), progress=False)
    assert not (tmp_path / "run" / "tensorboard").exists() and (tmp_path / "run" / "log.jsonl").exists()


def test_a_tracker_that_is_not_installed_or_named_twice_is_an_error(monkeypatch):
    monkeypatch.setattr("mtdnn.training.trackers.find_spec", lambda name: None if name == "aim" else name)
    trackers = RunConfig(tasks="t", data="d", encoder="e", output="o", trackers=["aim", "mlflow", "mlflow"]).trackers
    assert [str(each) for each in tracker_faults(trackers)] == [
        "trackers: 'mlflow' is named twice. Name it once.",
        "trackers: needs the package aim. Install it: pip install aim.",
    ]


def test_an_unknown_tracker_is_refused_with_the_known_ones():
    with pytest.raises(mtdnn.ConfigError, match=r"tensorboard.*wandb.*mlflow"):
        RunConfig(tasks="t", data="d", encoder="e", output="o", trackers=["wandbb"])


def test_a_tracker_that_cannot_start_is_one_line(tmp_path, monkeypatch, mlflow):
    monkeypatch.setattr(mlflow, "start_run", lambda **_: (_ for _ in ()).throw(RuntimeError("no login")))
    given = RunConfig(tasks="t", data="d", encoder="e", output="o", trackers="mlflow").trackers
    with pytest.raises(mtdnn.ConfigError, match=r"mlflow cannot be started: no login\. Log in, use its offline"):
        Trackers(given, Path(tmp_path), settings={})


def test_trackio_has_every_value_of_a_resumed_run_and_prints_nothing(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    stopped_and_resumed(demo, tmp_path / "run", monkeypatch, {"name": "trackio", "project": "demo", "group": "two"})
    assert capsys.readouterr().out == ""
    assert SQLiteStorage.get_runs("demo") == ["two-run"]
    found = SQLiteStorage.get_logs("demo", "two-run")
    for name, steps in logged(tmp_path / "run").items():
        assert {each["step"]: each[name] for each in found if name in each} == pytest.approx(steps), name


def test_aim_has_every_value_of_a_resumed_run(demo, tmp_path, monkeypatch):
    aim = pytest.importorskip("aim")
    from aim.sdk.index_manager import RepoIndexManager

    first = stopped_and_resumed(demo, tmp_path / "run", monkeypatch, {"name": "aim", "group": "two"})
    store = aim.Repo.from_path(str(tmp_path / "run"))
    assert store.list_all_runs() == [first["aim"]]
    assert RepoIndexManager.get_index_manager(store).index(first["aim"])  # as Aim's own page does before it reads
    run = aim.Run(first["aim"], repo=store, read_only=True)
    assert (run.experiment, run["hparams"]["optimizer.lr"]) == ("two", 0.001)
    found = {metric.name: {step: value for step, (value, *_) in metric.data.items()} for metric in run.metrics()}
    for name, steps in logged(tmp_path / "run").items():
        assert found[name] == pytest.approx(steps), name


class Recorded(types.ModuleType):
    """The interface of trackio and of Aim that accelerate's trackers use, for machines without these packages."""

    def __init__(self, name):
        super().__init__(name)
        self.begun, self.values = [], []
        self.config, self.hash = {}, "abc"

    def init(self, **given):
        self.begun.append(given)
        self.name = given["name"]
        return self

    Run = property(lambda self: lambda **given: self.begun.append(given) or self)

    def log(self, values, step=None):
        self.values.append((step, values))

    def track(self, value, name, step=None):
        self.values.append((step, {name: value}))

    def __setitem__(self, key, value):
        self.config[key] = value

    def finish(self):
        self.ended = True

    close = finish


@pytest.mark.parametrize(
    ("name", "project", "id"), [("trackio", "project", "lengths-one"), ("aim", "experiment", "abc")]
)
def test_trackio_and_aim_get_group_values_and_the_id_of_the_run_to_continue(name, project, id, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, library := Recorded(name))
    given = RunConfig(tasks="t", data="d", encoder="e", output="o", trackers=name).trackers
    one = tmp_path / "one"
    one.mkdir()
    for resumed in (False, True):
        trackers = Trackers(given, one, settings={"seed": 1}, group="lengths", resumed=resumed)
        trackers.log({"run/score": 0.5}, 3)
        trackers.close()
    assert library.values == [(3, {"run/score": 0.5})] * 2 and library.ended
    assert library.begun[0][project] == ("mtdnn" if name == "trackio" else "lengths")
    key = {"trackio": "name", "aim": "run_hash"}[name]
    assert [each[key] for each in library.begun] == [id if name == "trackio" else None, id]
