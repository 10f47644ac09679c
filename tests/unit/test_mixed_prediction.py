"""A few rows are predicted for all tasks with an adapter each in one pass, and as by one pass for each."""

import pytest

from mtdnn import open_run
from mtdnn.networks import adapters
from tests.reference.small_world import make_world, succeed

TEXTS = [("A red kite flies.", "The kite flies."), ("The slow boat.", "A boat sails.")]


def test_one_pass_gives_the_records_of_a_pass_for_each_task(tmp_path, monkeypatch):
    folder = make_world(tmp_path / "world")
    monkeypatch.chdir(folder)
    definitions = (folder / "tasks.yml").read_text()
    again = definitions.split("like:")[0].replace("nli:", "again:")
    (folder / "tasks.yml").write_text(definitions + again)
    (folder / "data" / "again").symlink_to(folder / "data" / "nli")
    succeed("prepro tasks.yml --data data --encoder encoder --out prepared --workers 1")
    succeed("train run.yml --adapter lora --adapter.scope task --optimizer.lr 0.05")
    run, passes = open_run(folder / "run"), []
    monkeypatch.setattr(run.model.encoder.__class__, "encode", counted(run.model.encoder.__class__.encode, passes))
    together = run.predict(["nli", "again"], TEXTS)
    assert len(passes) == 1
    for task in ("nli", "again"):
        for one, other in zip(run.predict(task, TEXTS)[task], together[task], strict=True):
            assert one["prediction"] == other["prediction"]
            assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
    assert together["nli"][0]["scores"] != together["again"][0]["scores"]
    monkeypatch.setattr(adapters, "mixes", lambda backbone: False)
    del run.model.encoder.mixes_adapters  # computed once
    passes.clear()
    run.predict(["nli", "again"], TEXTS)
    assert len(passes) == 2


def counted(function, calls):
    def call(*args, **keywords):
        calls.append(1)
        return function(*args, **keywords)

    return call
