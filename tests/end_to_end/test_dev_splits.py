"""Runs whose tasks are measured otherwise than on a labelled dev split of their own."""

import json

import pytest
import yaml

from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare
from mtdnn.runs.opened import open_run
from mtdnn.runs.train import train


@pytest.fixture
def world(demo, tmp_path):
    """Values of a run on definitions that change those of one demo task, prepared anew."""

    def make(blocks, **values):
        known = yaml.safe_load(demo.tasks.read_text(encoding="utf-8"))
        (tmp_path / "tasks.yml").write_text(yaml.safe_dump({name: change(known) for name, change in blocks.items()}))
        tasks = load_task_defs(tmp_path / "tasks.yml")
        prepare(tasks, data=tmp_path / "data", encoder=demo.encoder, out=tmp_path / "prepared", num_workers=1)
        given = {"tasks": str(tmp_path / "tasks.yml"), "data": str(tmp_path / "prepared"), **values}
        return demo.run_values(tmp_path / "run", **given)

    (tmp_path / "data").mkdir()
    for name in ("demo_nli", "hard"):
        (tmp_path / "data" / name).symlink_to(demo.data / "demo_nli")
    return make


def state(folder):
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))


def test_without_labels_to_look_at_the_last_weights_are_the_best(world, tmp_path):
    values = world({"demo_nli": lambda known: {**known["demo_nli"], "splits": {"train": "train"}}}, epochs=3)
    train(load_run_config(None, values), progress=False)
    run = tmp_path / "run"
    assert state(run / "best") == state(run / "last")
    assert state(run / "best")["step"] == 12


def test_another_task_s_head_answers_and_is_not_trained_on_it(world, tmp_path):
    values = world(
        {
            "demo_nli": lambda known: known["demo_nli"],
            "hard": lambda known: {**known["demo_nli"], "head_of": "demo_nli", "splits": {"dev": "dev"}},
        }
    )
    results = train(load_run_config(None, values), progress=False)
    assert results["hard"] == results["demo_nli"]  # the same rows
    run = open_run(tmp_path / "run")
    assert list(run.model.heads) == ["demo_nli"]
    texts = [("It rained all night.", "It rained.")]
    found = run.predict(["demo_nli", "hard"], texts)
    assert found["hard"] == found["demo_nli"]


def test_the_ids_of_a_subset_are_kept(world, tmp_path):
    values = world({"demo_nli": lambda known: known["demo_nli"]}, **{"subset.demo_nli.rows": 20})
    train(load_run_config(None, values), progress=False)
    ids = (tmp_path / "run" / "subset" / "demo_nli.ids").read_text(encoding="utf-8").split()
    assert len(set(ids)) == 20
