"""A model card: which results it has, and what it says of data sets and encoders that are on the machine."""

from types import SimpleNamespace

import pytest

from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import task_def_from
from mtdnn.errors import DataError
from mtdnn.publishing import card
from mtdnn.runs.folder import RunFolder

RESULTS = {
    "a": {"dev": {"rows": 9, "accuracy": 0.5}, "test": {"rows": 9, "accuracy": 0.4}},
    "b": {"dev": {"rows": 9, "accuracy": 0.7}},
    "_run": {"seed": 1, "step": 8, "checkpoint": "last"},
    "_made_by": {
        "a": {"dev": {"checkpoint": "last", "step": 8}, "test": {"checkpoint": "best", "step": 4}},
        "b": {"dev": {"checkpoint": "best", "step": 4}},
    },
}
"""Of a run whose best checkpoint is of step 4, after `mtdnn evaluate RUN --tasks a --checkpoint last`."""


class Stored(RunFolder):
    """A run with these results, whose files are not read."""

    def read_results(self):
        return {key: RESULTS[key] for key in ("a", "_run", "_made_by")}

    def read_config(self):
        return RunConfig(tasks="tasks.yml", data="prepared", encoder="bert-base-uncased", output="runs/x")

    def read_tasks(self):
        return {"a": task_def_from("a", {"task_type": "regression", "inputs": ["text"]})}


def test_a_card_has_the_results_of_the_published_weights_alone():
    """It had every split's latest results, whatever checkpoint they were of."""
    assert card.results_of_step(RESULTS, 4) == {"a": {"test": RESULTS["a"]["test"]}, "b": RESULTS["b"]}
    assert card.results_of_step(RESULTS, 8) == {"a": {"dev": RESULTS["a"]["dev"]}, "b": {}}
    assert card.results_of_step({"b": RESULTS["b"]}, 4) == {"b": RESULTS["b"]}  # by a version that noted no step


def test_weights_that_were_not_measured_have_no_card():
    with pytest.raises(DataError) as found:
        card.model_card(Stored("runs/x"), checkpoint="step-2", step=2, name="me/x")
    assert found.value.lines == (
        "runs/x: has no results of step-2 (step 2) to put into a model card, but of other checkpoints. "
        "Run: mtdnn evaluate runs/x --checkpoint step-2",
    )
    assert "Checkpoint of step 8, seed 1" in card.model_card(Stored("runs/x"), checkpoint="last", step=8, name="me/x")


@pytest.mark.parametrize(
    ("path", "shown", "listed"),
    [
        ("nyu-mll/glue", "nyu-mll/glue", ["nyu-mll/glue"]),
        ("imdb", "imdb", ["imdb"]),
        ("/home/me/secret/rows", "rows", None),  # not there any more, or on another machine
        ("../secret/rows", "rows", None),
    ],
)
def test_a_data_set_of_the_machine_is_named_without_its_folder(path, shown, listed):
    task = task_def_from("a", {"task_type": "regression", "inputs": ["text"], "source": {"path": path}})
    config = Stored("runs/x").read_config()
    front = card._front_matter(config, {"a": task}, [], license=None, whole=True, title="x")
    assert front.get("datasets") == listed and front["base_model"] == "bert-base-uncased"
    assert card._source(task, SimpleNamespace(source={})) == shown


def test_the_card_of_one_task_does_not_name_a_file_that_is_not_uploaded():
    config = Stored("runs/x").read_config()
    assert "`run.yml` has every key" in card._settings(config, whole=True)
    assert "run.yml" not in card._settings(config, whole=False)


@pytest.mark.parametrize(
    ("checkpoint", "evaluate_every", "chosen"),
    [("best", "epoch", True), ("best", "never", False), ("last", "epoch", False), ("step-4", "epoch", False)],
)
def test_only_a_checkpoint_that_the_dev_splits_chose_is_said_to_be_chosen(checkpoint, evaluate_every, chosen):
    config = Stored("runs/x").read_config().model_copy(update={"evaluate_every": evaluate_every})
    task = task_def_from(
        "a", {"task_type": "regression", "inputs": ["text"], "splits": {"train": "train", "dev": "dev"}}
    )
    text = card._limits(config, {"a": task}, None, checkpoint=checkpoint)
    assert ("was chosen by the dev splits" in text) is chosen
