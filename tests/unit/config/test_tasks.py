"""Blocks of task definitions become frozen TaskDefs; every fault has its line."""

import re

import pydantic
import pytest
from torch import nn

from mtdnn.config.task import RESERVED
from mtdnn.config.tasks import TaskDef, chosen_tasks, load_task_defs, task_def_from
from mtdnn.errors import ConfigError, Place

BLOCK = """
mnli:
  task_type: classification
  inputs: [premise, hypothesis]
  labels: [contradiction, neutral, entailment]
  metrics: [accuracy, f1_macro]
  splits: {train: train, dev: [dev_matched, dev_mismatched]}
  dropout: 0.3
  regularizer: {name: smart, weight: 3, epsilon: 1e-5}
  init_head: {from: snli, labels: {entailment: entails}}
  source: {path: nyu-mll/glue, name: mnli}
  shade: dark
stsb:
  task_type: regression
  inputs: [first, second]
  regularizer: none
"""


def load(tmp_path, text):
    (tmp_path / "tasks.yml").write_text(text, encoding="utf-8")
    return load_task_defs(tmp_path / "tasks.yml")


def faults_of(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.lines]


def test_a_name_that_pytorch_reserves_is_refused(tmp_path):
    """The heads are in a ModuleDict by the names of their tasks."""
    taken = {name for name in dir(nn.ModuleDict()) if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)}
    assert taken <= RESERVED and "train" in taken
    block = "  task_type: classification\n  inputs: [text]\n  labels: [a, b]\n"
    (line,) = faults_of(tmp_path, f"type:\n{block}")
    assert "'type' is a word that PyTorch reserves; another one, such as 'type_task', is free" in line


@pytest.mark.parametrize("word", ["no", "on", "null"])
def test_a_name_that_yaml_reads_as_no_word_is_refused(tmp_path, word):
    block = "  task_type: classification\n  inputs: [text]\n  labels: [a, b]\n"
    (line,) = faults_of(tmp_path, f"{word}:\n{block}")
    assert line.startswith(f"tasks.yml:1: YAML reads {word} without quotes as ") and "Put it in quotes." in line
    assert list(load(tmp_path, f"'{word}':\n{block}")) == [word]


def test_a_full_block_is_read(tmp_path):
    task = load(tmp_path, BLOCK)["mnli"]
    assert (task.name, task.task_type, task.dropout, task.weight) == ("mnli", "classification", 0.3, 1.0)
    assert task.inputs == ("premise", "hypothesis")
    assert task.labels == ("contradiction", "neutral", "entailment")
    assert task.splits == {"train": ("train",), "dev": ("dev_matched", "dev_mismatched")}
    assert task.split_names == ("train", "dev_matched", "dev_mismatched")
    assert task.regularizer.name == "smart"
    assert task.regularizer.options == {"weight": 3, "epsilon": 1e-5}
    assert task.init_head.from_ == "snli"
    assert task.source.name == "mnli"


def test_tasks_keep_the_order_of_the_file(tmp_path):
    assert list(load(tmp_path, BLOCK)) == ["mnli", "stsb"]


def test_defaults_are_those_of_the_documentation(tmp_path):
    task = load(tmp_path, "a: {task_type: classification}")["a"]
    assert (task.inputs, task.dropout, task.weight, task.max_length) == (("text",), 0.1, 1.0, 256)
    assert task.splits == {"train": ("train",), "dev": ("dev",)}
    assert task.head.name == "pooled"
    assert task.regularizer is None and not task.regularizer_off


def test_keys_no_task_shares_are_left_to_the_task_type(tmp_path):
    assert load(tmp_path, BLOCK)["mnli"].options == {"shade": "dark"}


def test_none_turns_the_runs_regularizer_off(tmp_path):
    assert load(tmp_path, BLOCK)["stsb"].regularizer_off


def test_every_key_knows_its_line(tmp_path):
    task = load(tmp_path, BLOCK)["mnli"]
    assert str(task.where("labels")) == f"{tmp_path}/tasks.yml:5"
    assert str(task.where("shade")) == f"{tmp_path}/tasks.yml:12"
    assert task.where("loss") == task.where() == Place(f"{tmp_path}/tasks.yml", 2)
    assert str(task.fault("loss", "unknown")) == f"{tmp_path}/tasks.yml:2: mnli.loss: unknown"


def test_a_task_made_in_python_is_reported_by_its_name():
    task = TaskDef(name="a", task_type="classification")
    assert str(task.fault("loss", "unknown")) == "a: a.loss: unknown"


def test_a_task_does_not_change(tmp_path):
    task = load(tmp_path, BLOCK)["mnli"]
    with pytest.raises(pydantic.ValidationError):
        task.dropout = 0.5


def test_number_labels_are_words(tmp_path):
    assert load(tmp_path, "a: {task_type: classification, labels: [0, 1]}")["a"].labels == ("0", "1")


def test_number_labels_are_words_in_a_head_to_start_from_too(tmp_path):
    text = "a: {task_type: classification, labels: [0, 1.5], init_head: {from: b, labels: {0: 1, 1.5: 0}}}"
    assert load(tmp_path, text)["a"].init_head.labels == {"0": "1", "1.5": "0"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "a:\n  labels: [x, y]\n",
            "tasks.yml:1: a.task_type: is missing. Add it.",
        ),
        (
            "a:\n  task_type: classification\n  dropout: 1.5\n",
            "tasks.yml:3: a.dropout: 1.5: input should be less than 1",
        ),
        (
            "a:\n  task_type: classification\n  labels: [yes, no]\n",
            "tasks.yml:3: a.labels: [True, False]: YAML reads yes/no/on/off/true/false without quotes as booleans; "
            "put the word in quotes",
        ),
        (
            "a:\n  task_type: classification\n  init_head:\n    from: b\n    labels: {yes: x}\n",
            "tasks.yml:5: a.init_head.labels: {True: 'x'}: YAML reads yes/no/on/off/true/false without quotes as "
            "booleans; put the word in quotes",
        ),
        (
            "a:\n  task_type: classification\n  init_head:\n    from: b\n    labels: {x: [y]}\n",
            "tasks.yml:5: a.init_head.labels.x: ['y']: expected a text",
        ),
        (
            "a:\n  task_type: classification\n  labels: [x, y, x]\n",
            "tasks.yml:3: a.labels: ['x', 'y', 'x']: 'x' is given twice",
        ),
        (
            "a:\n  task_type: classification\n  splits:\n    trian: train\n",
            "tasks.yml:3: a.splits: {'trian': 'train'}: unknown role 'trian'; known: train, dev, test",
        ),
        (
            "a:\n  task_type: classification\n  splits: {train: ['../foo/train']}\n",
            "tasks.yml:3: a.splits: {'train': ['../foo/train']}: '../foo/train' cannot name a split, as it names a "
            "folder; give a name without '/'",
        ),
        (
            "a b:\n  task_type: classification\n",
            "tasks.yml:1: a b.name: 'a b': a task's name may have only letters, digits, '_' and '-'",
        ),
        (
            "a:\n  task_type: classification\n  weight: .inf\n",
            "tasks.yml:3: a.weight: inf: input should be a finite number",
        ),
        (
            "a:\n  task_type: classification\n  source: {pth: x}\n",
            "tasks.yml:3: a.source.path: is missing. Add it.",
        ),
        (
            "a:\n  task_type: classification\n  init_head: {from: b, lables: {x: y}}\n",
            "tasks.yml:3: a.init_head.lables: unknown key 'lables'; known: from, labels. Did you mean 'labels'?",
        ),
        (
            "a:\n  task_type: classification\n  distill: {from: b, form: c}\n",
            "tasks.yml:3: a.distill.form: unknown key 'form'; known: from, temperature, weight. Did you mean 'from'?",
        ),
        (
            "a:\n  task_type: classification\n  regularizer: {weight: 3}\n",
            "tasks.yml:3: a.regularizer.name: is missing. Add it.",
        ),
        (
            "a: classification\n",
            "tasks.yml:1: a: 'classification' is not a mapping of keys to values. "
            "See docs/task_definitions.md for the keys.",
        ),
        (
            "a: {task_type: classification}\nb:\n  task_type: classification\n  head_of: aa\n",
            "tasks.yml:4: b.head_of: unknown task 'aa'; known: a. Did you mean 'a'?",
        ),
        (
            "a: {task_type: regression, labels: [x, y]}\nb: {task_type: regression, labels: [y, x], head_of: a}\n",
            "tasks.yml:2: b.labels: [y, x], but it uses the head of 'a', which has [x, y]. Give both tasks the same.",
        ),
        (
            "a: {task_type: regression}\nb:\n  task_type: classification\n  head_of: a\n",
            "tasks.yml:3: b.task_type: 'classification', but it uses the head of 'a', which has 'regression'. "
            "Give both tasks the same.",
        ),
        (
            "a: {task_type: regression}\nb: {task_type: regression, head_of: a}\n"
            "c: {task_type: regression, head_of: b}\n",
            "tasks.yml:3: c.head_of: 'b' has no head of its own. Name 'a'.",
        ),
        (
            "a: {task_type: classification}\na: {task_type: regression}\n",
            "tasks.yml:2: a: given twice, first at line 1. Remove or rename one.",
        ),
    ],
)
def test_a_fault_has_its_line(tmp_path, text, line):
    assert any(found.startswith(line) for found in faults_of(tmp_path, text))


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_a_task_that_is_only_evaluated_on_shared_rows_reads_the_same_texts(tmp_path, names):
    """Rows are encoded once, and it would be evaluated on the texts of the others; what trains need not be equal."""
    shared = "{{task_type: regression, rows: {{file: all}}, inputs: [{}], max_length: {}, {}}}\n"

    def text(inputs, max_length):
        trained = shared.format("p", 64, "batch_size: 4, splits: {train: train}")
        evaluated = shared.format(inputs, max_length, "head_of: a, splits: {dev: dev}")
        return "".join(f"{name}: {trained if name == 'a' else evaluated}" for name in names)

    def found(inputs, max_length):
        return [line.split(": ", 1)[1] for line in faults_of(tmp_path, text(inputs, max_length))]

    fix = "Give both tasks the same."
    assert found("q", 64) == [f"b.inputs: [id, q], but 'a', which shares its rows, has [id, p]. {fix}"]
    assert found("p", 16) == [f"b.max_length: 16, but 'a', which shares its rows, has 64. {fix}"]
    assert sorted(load(tmp_path, text("p", 64))) == ["a", "b"]


def test_faults_of_all_blocks_are_reported_at_once(tmp_path):
    text = "a:\n  task_type: classification\n  dropout: 2\nb:\n  task_type: regression\n  weight: -1\n  max_length: 1\n"
    assert [line.split(":")[1] for line in faults_of(tmp_path, text)] == ["3", "6", "7"]


def test_one_block_may_be_given_without_a_file():
    task = task_def_from("a", {"task_type": "regression", "inputs": "text", "span": 3})
    assert task.inputs == ("text",) and task.options == {"span": 3}
    with pytest.raises(ConfigError, match=r"a: a.dropout: 3: input should be less than 1"):
        task_def_from("a", {"task_type": "regression", "dropout": 3})


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["rt"], "only: unknown task 'rt'; known: rte, mrpc. Did you mean 'rte'?"),
        ([], "only: names no task. Known: rte, mrpc."),
    ],
)
def test_tasks_are_chosen_by_name_and_unknown_ones_are_refused(names, line):
    tasks = {name: TaskDef(name=name, task_type="classification") for name in ("rte", "mrpc")}
    assert chosen_tasks(tasks, ["mrpc"], key="only") == {"mrpc": tasks["mrpc"]}
    assert chosen_tasks(tasks, None, key="only") == tasks
    with pytest.raises(ConfigError) as caught:
        chosen_tasks(tasks, names, key="only")
    assert str(caught.value) == line


def test_definitions_in_memory_are_blocks_or_tasks_under_their_own_names():
    rte = TaskDef(name="rte", task_type="classification", labels=["yes", "no"])
    stars = {"task_type": "regression", "inputs": ["review"], "shade": "dark"}
    found = load_task_defs({"rte": rte, "stars": stars})
    assert found == {"rte": rte, "stars": task_def_from("stars", stars)}
    assert found["stars"].options == {"shade": "dark"}
    with pytest.raises(ConfigError) as caught:
        load_task_defs({"mnli": rte, "stars": {**stars, "droput": 0.1, "dropout": 2}, "a": 3})
    assert caught.value.lines == (
        "mnli: mnli.name: the task under this name has the name 'rte'. Give both the same.",
        "stars: stars.dropout: 2: input should be less than 1. Give another value, or leave it out for the default, "
        "0.1.",
        "a: 3 is not a mapping of keys to values. See docs/task_definitions.md for the keys.",
    )


@pytest.mark.parametrize(("definitions", "place"), [({}, "tasks"), ("tasks.yml", "tasks.yml")])
def test_definitions_without_a_task_are_refused(tmp_path, monkeypatch, definitions, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.yml").write_text("{}\n")
    with pytest.raises(ConfigError) as caught:
        load_task_defs(definitions)
    assert caught.value.lines == (
        f"{place}: defines no task. Give a name and a block of keys for each, such as "
        "`stars: {task_type: regression}`.",
    )


def test_a_wrong_keyword_of_a_task_raises_our_error_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        TaskDef(name="a", task_type="classification", dropuot=0.1, splits={"trian": ["x"]})
    first, second = caught.value.lines
    assert second.startswith("TaskDef(): dropuot: unknown keyword 'dropuot'; known: name, task_type, inputs")
    assert second.endswith("Did you mean 'dropout'?")
    assert first == "TaskDef(): splits: {'trian': ['x']}: unknown role 'trian'; known: train, dev, test"


@pytest.mark.parametrize("key", ["class_weights", "label_smoothing", "tune_thresholds", "group_by"])
def test_a_keyword_that_is_a_key_of_a_task_type_is_referred_to_options(key):
    with pytest.raises(ConfigError) as caught:
        TaskDef(name="a", task_type="classification", **{key: 1})
    (line,) = caught.value.lines
    assert line.startswith(f"TaskDef(): {key}: unknown keyword '{key}'; known: name, ")
    assert line.endswith(f"A key of its task type is given as options={{'{key}': …}}.")
