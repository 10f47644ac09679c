"""What a run's configuration names is checked against its tasks before anything is built."""

import pytest

from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.errors import ConfigError
from mtdnn.runs.named import regularizers_of, run_tasks

TASKS = """\
nli: {task_type: classification, inputs: [premise, hypothesis], labels: [no_, yes_]}
bare: {task_type: classification, labels: [a, b], splits: {train: train}}
hard: {task_type: classification, inputs: [premise, hypothesis], labels: [no_, yes_], head_of: nli, splits: {dev: dev}}
"""


@pytest.fixture
def tasks_of(tmp_path):
    """The tasks and trained names of a run with these values."""
    (tmp_path / "tasks.yml").write_text(TASKS)

    def read(**values):
        given = {"tasks": str(tmp_path / "tasks.yml"), "data": "prepared", "output": "run", "encoder": "tiny", **values}
        return run_tasks(load_run_config(None, given))

    return read


def test_a_task_answered_by_another_s_head_comes_with_it_and_is_not_trained(tasks_of):
    tasks, trained = tasks_of()
    assert (list(tasks), trained) == (["nli", "bare", "hard"], ["nli", "bare"])
    assert list(tasks_of(train=["bare"])[0]) == ["bare"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"train": ["nil"]}, "train: unknown task 'nil'; known: nli, bare. Did you mean 'nli'?"),
        ({"train": ["hard"]}, "train: unknown task 'hard'; known: nli, bare."),
        ({"select_by": "hard"}, "select_by: unknown task 'hard'; known: mean, nli, bare."),
        (
            {"train": ["nli", "nil"], "select_by": "hard"},
            "train: unknown task 'nil'; known: nli, bare. Did you mean 'nli'?\n"
            "select_by: unknown task 'hard'; known: mean, nli.",
        ),
        ({"select_by": "bare"}, "select_by: 'bare' has no dev split. Add one, or choose among: mean, nli."),
        (
            {"train": ["bare"], "early_stopping.patience": 2},
            "early_stopping: no task has a dev split to measure. Add one to a task, or remove early_stopping.",
        ),
        ({"subset.nil.rows": 3}, "subset: unknown task 'nil'; known: nli, bare. Did you mean 'nli'?"),
    ],
)
def test_what_it_cannot_have_is_reported(tasks_of, values, expected):
    with pytest.raises(ConfigError) as caught:
        tasks_of(**values)
    assert expected in str(caught.value)


def test_tasks_without_a_train_split_are_reported_at_their_file_or_in_memory_at_the_key(tmp_path):
    block = {"task_type": "regression", "splits": {"dev": "dev"}}
    (tmp_path / "tasks.yml").write_text("stars: {task_type: regression, splits: {dev: dev}}\n")
    file = str(tmp_path / "tasks.yml")
    for given, definitions, place in ((file, None, file), ("run/tasks.yml", load_task_defs({"stars": block}), "tasks")):
        config = load_run_config(None, {"tasks": given, "data": "prepared", "output": "run", "encoder": "tiny"})
        with pytest.raises(ConfigError) as caught:
            run_tasks(config, definitions)
        assert caught.value.lines == (f"{place}: no task has a train split. Add one to a task's `splits`.",)


def test_a_method_whose_optimizer_moves_within_a_step_is_refused_where_a_batch_has_parts(tmp_path):
    (tmp_path / "tasks.yml").write_text(TASKS)
    given = {"tasks": str(tmp_path / "tasks.yml"), "data": "prepared", "output": "run", "encoder": "tiny"}
    reported = (
        r"regularizer: free_at updates the weights within a step, but accumulate is 2\. Use accumulate: 1, or another"
    )
    for name, accumulate in [("free_at", 1), ("free_lb", 2)]:
        config = load_run_config(None, {**given, "regularizer": name, "accumulate": accumulate})
        regularizers_of(config, load_task_defs(config.tasks))
    config = load_run_config(None, {**given, "regularizer": "free_at", "accumulate": 2})
    with pytest.raises(ConfigError, match=reported):
        regularizers_of(config, load_task_defs(config.tasks))


def test_every_fault_of_a_regularizer_is_reported_at_once(tmp_path):
    (tmp_path / "tasks.yml").write_text(TASKS)
    given = {"tasks": str(tmp_path / "tasks.yml"), "data": "prepared", "output": "run", "encoder": "tiny"}
    config = load_run_config(None, {**given, "regularizer": {"name": "smart", "weight": -1, "foo": 2, "norm": "l1"}})
    with pytest.raises(ConfigError) as caught:
        regularizers_of(config, load_task_defs(config.tasks))
    assert [line.split(":")[0] for line in caught.value.lines] == [
        "regularizer.foo", "regularizer.weight", "regularizer.norm",
    ]  # fmt: skip
