"""`mtdnn tune`: Optuna's study on disk, trials on dev splits only, a run's YAML as the result."""

import csv
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import yaml

import mtdnn
from mtdnn.cli.main import main
from mtdnn.errors import ConfigError
from mtdnn.files import exclusive
from mtdnn.runs.opened import Run
from mtdnn.study import tuning
from mtdnn.study.space import read_space
from mtdnn.study.tuning import Search, open_study, tune
from tests.reference import ray_stand_in


@pytest.fixture
def files(demo, tmp_path):
    """A run of one task and a space, and the words of the command for them."""
    values = demo.run_values(tmp_path / "unused", train=["demo_target"], max_steps=2, evaluate_every=1)
    values["optimizer"] = {"lr": values.pop("optimizer.lr")}
    (tmp_path / "run.yml").write_text(yaml.safe_dump(values), encoding="utf-8")
    (tmp_path / "space.yml").write_text(
        "optimizer.lr: {low: 1.0e-5, high: 1.0e-2, log: true}\nbatch_size: [8, 16]\n", encoding="utf-8"
    )
    return ["tune", str(tmp_path / "run.yml"), "--space", str(tmp_path / "space.yml"), "--out", str(tmp_path / "out")]


def rows(folder):
    with (folder / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_search_ends_in_a_run_that_can_be_trained(files, tmp_path, monkeypatch, capsys):
    def no_evaluation(*_, **__):
        raise AssertionError("a split is measured after training")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "evaluate", no_evaluation)  # which would measure test splits as well
        assert main([*files, "--trials", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scores = [float(row["score"]) for row in rows(tmp_path / "out") if row["state"] == "complete"]
    assert found["score"] == pytest.approx(max(scores), abs=1e-6) and found["finished"] + found["pruned"] == 3
    best = mtdnn.load_run_config(tmp_path / "out" / "best.yml")
    assert best.optimizer.lr == pytest.approx(found["values"]["optimizer.lr"])
    assert best.batch_size == found["values"]["batch_size"] and best.max_steps == 2
    results = mtdnn.train(tmp_path / "out" / "best.yml", progress=False)  # same seed: the same dev score
    assert results["demo_target"]["dev"]["accuracy"] == pytest.approx(found["score"], abs=1e-6)
    kept = {path.name for path in (tmp_path / "out" / "trials" / "0").iterdir()}
    assert {"run.yml", "log.jsonl"} <= kept and not kept & {"best", "last", "checkpoints"}


def test_the_same_command_continues_a_search_and_repeats_nothing(files, tmp_path, monkeypatch):
    trained = tuning._trained
    assert main([*files, "--trials", "1"]) == 0

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_trained", killed)
    assert main([*files, "--trials", "3"]) == 130
    monkeypatch.setattr(tuning, "_trained", trained)
    assert main([*files, "--trials", "3"]) == 0
    found = rows(tmp_path / "out")
    assert [row["state"] for row in found].count("complete") + [row["state"] for row in found].count("pruned") == 3
    assert len({row["optimizer.lr"] for row in found if row["optimizer.lr"]}) == len(found)
    before = (tmp_path / "out" / "trials.csv").read_bytes()
    monkeypatch.setattr(tuning, "_trained", killed)  # nothing is left to do
    assert main([*files, "--trials", "3"]) == 0
    assert (tmp_path / "out" / "trials.csv").read_bytes() == before


def search_of(files, **values):
    return Search(files[1], read_space(files[3], files[1]), files_out(files), **values)


def files_out(files):
    return Path(files[5])


def test_a_worse_trial_is_pruned_by_its_dev_score(files, monkeypatch):
    """Five trials score 0.9; the sixth 0.1 at its first evaluation, below their median, and is stopped there."""
    search = search_of(files, trials=6)
    search.folder.mkdir()
    study = open_study(search)
    for _ in range(tuning.STARTUP_TRIALS):
        trial = study.ask()
        trial.report(0.9, 0)
        study.tell(trial, 0.9)
    monkeypatch.setattr("mtdnn.runs.setup.Setup._evaluate", lambda self: ({}, 0.1))
    tuning.work(search)
    last = open_study(search).trials[-1]
    assert last.state == optuna.trial.TrialState.PRUNED and last.intermediate_values == {0: 0.1}


def test_a_diverged_trial_is_pruned_with_its_reason(files, monkeypatch):
    from mtdnn.training.meter import NonFiniteLoss

    def diverges(*_):
        raise NonFiniteLoss("the loss of demo_target is nan")

    monkeypatch.setattr(tuning, "_trained", diverges)
    with pytest.raises(mtdnn.DataError, match="no trial finished: the loss of demo_target is nan"):
        tune(search_of(files, trials=2))


def test_another_space_in_the_same_folder_is_refused(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "_trained", lambda config, folder, trial: 0.5)
    assert main([*files, "--trials", "1"]) == 0
    (tmp_path / "space.yml").write_text("batch_size: [8]\n", encoding="utf-8")
    assert main([*files, "--trials", "2"]) == 2
    assert "has a search of another space. Undo the change, or give another --out." in capsys.readouterr().err


def test_a_search_of_a_version_with_fewer_keys_goes_on_and_that_of_another_run_does_not(files, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "_trained", lambda config, folder, trial: 0.5)
    assert main([*files, "--trials", "1"]) == 0
    study = open_study(search_of(files, trials=1))
    stored = study.user_attrs["run"]
    study.set_user_attr("run", "".join(line for line in stored.splitlines(True) if not line.startswith("sharding")))
    assert study.user_attrs["run"] != stored
    assert main([*files, "--trials", "2"]) == 0
    study.set_user_attr("run", stored.replace("sharding: none", "sharding: full"))
    assert main([*files, "--trials", "3"]) == 2
    assert "has a search of another run. Undo the change, or give another --out." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "reported"),
    [
        ("optimizer.lr: 1", "space.yml:1: optimizer.lr: 1. Give a list of values, or {low: …, high: …}."),
        ("optimizer.lr: {low: 2, high: 1}", "low 2, high 1. Give two numbers, the lower one first."),
        ("optimizer.lr: {low: 0, high: 1, log: true}", "low 0 with log. Give a number above 0."),
        ("optimizer.lr: {low: 0.1, hihg: 1}", "unknown key 'hihg'; known: low, high, log, step. Did you mean 'high'?"),
        ("optimizer.lrr: [0.1]", "optimizer.lrr: 0.1: "),
        (
            "batch_size: {low: 2, high: 8, step: 0.5}",
            "batch_size: step 0.5. Give a whole number above 0, as low and hi",
        ),
        ("optimizer.lr: {low: 0.1, high: 1, step: 0}", "space.yml:1: optimizer.lr: step 0. Give a number above 0."),
        ("optimizer.lr: {low: 0.1, high: 1, step: 0.1, log: true}", "step 0.1 with log. Leave out one of them."),
        ("optimizer.lr: {low: 0.1, high: 1, log: 'no'}", "log 'no'. Give true or false."),
        ("optimizer.lr: {low: 0.1, high: 1, log: 1}", "log 1. Give true or false."),
        (
            "optimizer.weight_decay: {low: 0, high: 1}",
            "space.yml:1: optimizer.weight_decay: low 0, high 1, but the key takes fractions. "
            "Write {low: 0.0, high: 1.0} to search those, or add `step: 1` to search whole numbers.",
        ),
        ("epochs: {low: 1, high: 4, log: true}", "takes fractions. Write {low: 1.0, high: 4.0} to search those.\n"),
        ("optimizer.lr: {low: -.inf, high: 1}", "low -inf, high 1. Give two numbers, the lower one first."),
        ("1: [0.1]", "space.yml:1: 1: is not a text. Name a key of the run, such as optimizer.lr."),
        ("batch_size: [8, many]", "batch_size: 'many': "),
        ("output: [a, b]", "output: is a path and not a setting. Leave it out."),
        ("{}", "no key to search"),
    ],
)
def test_errors_of_a_space_have_their_place(space, reported, files, tmp_path, capsys):
    (tmp_path / "space.yml").write_text(space + "\n", encoding="utf-8")
    assert main(files) == 2
    assert reported in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_never_evaluated_has_nothing_to_be_tuned_by(files):
    """A whole trial was trained first, and then labels were missed that were there."""
    run = Path(files[1])
    run.write_text(run.read_text().replace("evaluate_every: 1", "evaluate_every: never"))
    with pytest.raises(ConfigError, match=r"run.yml:\d+: evaluate_every: never leaves nothing to compare trials"):
        tune(search_of(files, trials=1))


def test_errors_of_the_run_and_of_the_space_are_in_one_report(files, tmp_path, capsys):
    path = tmp_path / "run.yml"
    path.write_text(path.read_text(encoding="utf-8") + "batchsize: 4\n", encoding="utf-8")
    (tmp_path / "space.yml").write_text("optimizer.lrr: [0.1, 0.2]\nbatch_size: [8, many]\nseed: 1\n", encoding="utf-8")
    assert main(files) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    expected = ("unknown key 'batchsize'", "space.yml:1: optimizer.lrr: 0.1: ", "space.yml:2: batch_size: 'many': ")
    assert all(part in line for part, line in zip((*expected, "space.yml:3: seed: 1. "), lines, strict=True))


@pytest.mark.parametrize(
    ("key", "given", "drawn"),
    [
        ("epochs", {"low": 1, "high": 4, "step": 1}, int),
        ("batch_size", {"low": 1, "high": 4}, int),
        ("clip_norm", {"low": 1.0, "high": 4}, float),
    ],
)
def test_whole_numbers_are_drawn_where_a_range_says_so(key, given, drawn, files, tmp_path):
    (tmp_path / "space.yml").write_text(yaml.safe_dump({key: given}), encoding="utf-8")
    space = read_space(files[3], files[1])
    assert type(tuning._suggested(optuna.create_study().ask(), key, space[key])) is drawn


def drawn_by(search, number, key="optimizer.lr"):
    """Values of some trials of a search, one after another."""
    study = open_study(search)
    trials = [study.ask() for _ in range(number)]
    return [tuning._suggested(trial, key, search.space[key]) for trial in trials]


def test_processes_that_start_at_the_same_time_draw_other_values(files, tmp_path):
    """Two studies opened while there is no trial, as by an array of jobs; and the draws of one are those of two."""
    search = search_of(files, trials=4)
    search.folder.mkdir()
    first, second = open_study(search), open_study(search)
    trials = [study.ask() for study in (first, second, first, second)]
    key = "optimizer.lr"
    values = [tuning._suggested(trial, key, search.space[key]) for trial in trials]
    assert len(set(values)) == 4
    alone = replace(search, folder=tmp_path / "alone")
    alone.folder.mkdir()
    assert drawn_by(alone, 4) == values


def test_the_keys_of_a_trial_are_drawn_apart(files):
    """One random number for both keys would make the places of their values in their ranges equal."""
    search = search_of(files, trials=1)
    search.folder.mkdir()
    trial = open_study(search).ask()
    first, second = (tuning._suggested(trial, key, {"low": 0.0, "high": 1.0}) for key in ("clip_norm", "epochs"))
    assert first != second


def test_a_killed_process_is_one_message_and_its_trial_has_failed(files, tmp_path, monkeypatch, capsys):
    """What a process leaves that was killed in training: a running trial, a lock that nobody has, weights."""
    search = search_of(files, trials=1)

    def loses_one(work, jobs):
        trial = open_study(search).ask()
        folder = tmp_path / "out" / "trials" / str(trial.number)
        (folder / "best").mkdir(parents=True)
        (folder / tuning.LOCK).touch()
        return ["its process was ended by signal 9 (out of memory?)"]

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "work_in_processes", loses_one)
        assert main([*files, "--trials", "1", "--jobs", "2"]) == 2
    reported = capsys.readouterr().err.strip().splitlines()[-1]
    assert reported == (
        f"{tmp_path / 'out'}: 1 of 2 processes ended: its process was ended by signal 9 (out of memory?); "
        "trials: 0 of 1. Run the same command to continue, with fewer --jobs if the memory was too small."
    )
    assert not (tmp_path / "out" / "trials" / "0" / "best").exists()
    monkeypatch.setattr(tuning, "_trained", lambda config, folder, trial: 0.5)
    assert main([*files, "--trials", "1"]) == 0
    assert [row["state"] for row in rows(tmp_path / "out")] == ["fail", "complete"]


def test_a_trial_of_another_process_is_left_alone(files, monkeypatch):
    monkeypatch.setattr(tuning, "_trained", lambda config, folder, trial: 0.5)
    search = search_of(files, trials=1)
    search.folder.mkdir()
    elsewhere = open_study(search).ask()
    with exclusive(search.folder / "trials" / str(elsewhere.number) / tuning.LOCK, wait=False):
        tune(search)
    states = [trial.state.name for trial in open_study(search).trials]
    assert states == ["RUNNING", "COMPLETE"]


def test_a_trial_whose_process_was_killed_as_it_began_has_failed(files, monkeypatch):
    """Without a lock it stayed a running trial, whose values Optuna avoided from then on."""
    monkeypatch.setattr(tuning, "_trained", lambda config, folder, trial: 0.5)
    search = search_of(files, trials=1)
    search.folder.mkdir()
    open_study(search).ask()
    tune(search)
    assert [trial.state.name for trial in open_study(search).trials] == ["FAIL", "COMPLETE"]


def test_a_trial_begins_under_a_lock_until_it_has_its_own(files, monkeypatch):
    search, ask, free = search_of(files, trials=1), optuna.Study.ask, list[bool]()

    def is_free(lock):
        with exclusive(lock, wait=False) as ours:
            return ours

    def asked(study):
        free.append(is_free(search.folder / tuning.BEGINNING))
        return ask(study)

    def trained(config, folder, trial):
        free.extend(map(is_free, (search.folder / tuning.BEGINNING, folder.path / tuning.LOCK)))
        return 0.5

    monkeypatch.setattr(optuna.Study, "ask", asked)
    monkeypatch.setattr(tuning, "_trained", trained)
    tune(search)
    assert free == [False, True, False]


@pytest.mark.slow
def test_a_search_continues_without_a_killed_process(files, tmp_path, caplog):
    """SIGKILL to one of two processes in training: the other carries out the trials."""
    search = search_of(files, trials=3)

    def kill_one():
        while not any(tmp_path.glob("out/trials/*/log.jsonl")):
            time.sleep(0.05)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    found = tune(search, jobs=2)
    killer.join()
    states = [row["state"] for row in rows(tmp_path / "out")]
    assert found.finished + found.pruned >= 3 and "running" not in states
    assert "1 of 2 processes ended: its process was ended by signal 9" in caplog.text


@pytest.mark.parametrize(
    ("flags", "reported"),
    [
        (
            ["--jobs", "0", "--trials", "0"],
            ["trials: 0. Give at least 1.", "jobs: 0 is not a valid number of processes."],
        ),
        (["--launcher", "rya"], ["launcher: unknown launcher 'rya'; known: local, ray. Did you mean 'ray'?"]),
        (["--gpus", "1"], ["gpus: is for the launchers ray and slurm."]),
    ],
)
def test_what_cannot_be_launched_is_refused(flags, reported, files, capsys):
    assert main([*files, *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert all(part in line for part, line in zip(reported, lines, strict=True))


def test_a_search_runs_on_ray(files, tmp_path, monkeypatch):
    """On a stand-in, whose tasks run in this process, one by one; the first of two carries out all trials."""
    monkeypatch.setitem(sys.modules, "ray", ray_stand_in)
    monkeypatch.setattr(tuning, "_trained", lambda config, folder, trial: 0.5)
    assert main([*files, "--trials", "2", "--jobs", "2", "--launcher", "ray"]) == 0
    assert [row["state"] for row in rows(tmp_path / "out")] == ["complete", "complete"]


def test_errors_and_lost_tasks_on_ray_are_reported(files, tmp_path, monkeypatch, capsys):
    def refused(*_):
        raise mtdnn.DataError("rows.tsv:3: no label")

    monkeypatch.setitem(sys.modules, "ray", ray_stand_in)
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_trained", refused)
        assert main([*files, "--trials", "2", "--launcher", "ray"]) == 2
    assert capsys.readouterr().err.strip() == "rows.tsv:3: no label"

    def node_lost(handle):
        raise ray_stand_in.RayError("the node died\nand more")

    monkeypatch.setattr(ray_stand_in, "get", node_lost)
    assert main([*files, "--trials", "2", "--jobs", "3", "--launcher", "ray"]) == 2
    assert "3 of 3 processes ended: its Ray worker ended: the node died; trials: 0 of 2." in capsys.readouterr().err


@pytest.mark.slow
def test_real_ray_carries_out_a_search(files, tmp_path, monkeypatch):
    """A local Ray of two processes; files are given relative to the current folder, which is not that of Ray."""
    ray = pytest.importorskip("ray", reason="ray is an optional extra: pip install 'mtdnn[ray]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the processes of Ray find these files
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    monkeypatch.chdir(tmp_path)
    try:
        words = ["tune", "run.yml", "--space", "space.yml", "--out", "out", "--trials", "2", "--jobs", "2"]
        assert main([*words, "--launcher", "ray"]) == 0
    finally:
        ray.shutdown()
    assert [row["state"] for row in rows(tmp_path / "out")].count("complete") >= 1


@pytest.mark.slow
def test_several_processes_share_a_search(files, tmp_path):
    assert main([*files, "--trials", "4", "--jobs", "2"]) == 0
    ended = [row for row in rows(tmp_path / "out") if row["state"] in ("complete", "pruned")]
    assert 4 <= len(ended) <= 5  # the last two trials may end at the same time
    assert len({row["optimizer.lr"] for row in ended}) == len(ended)
