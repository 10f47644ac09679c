"""`init_head`: a head that starts from that of another task of an earlier run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from transformers import BertConfig, BertModel

import mtdnn.task_types  # noqa: F401  registers them
from mtdnn.config.run import EncoderSource, RunConfig
from mtdnn.config.tasks import TaskDef, task_def_from
from mtdnn.errors import ConfigError, DataError
from mtdnn.files import write_text
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.runs.encoders import empty_encoder
from mtdnn.runs.folder import RunFolder, tasks_to_yaml
from mtdnn.runs.initialisation import has_same_head, init_head_from, init_heads
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.training.checkpoint import WEIGHTS

NLI = {"task_type": "classification", "labels": ["contradiction", "neutral", "entailment"]}
TWO = {"task_type": "classification", "labels": ["neutral", "entails"]}
TAGS = {"task_type": "sequence_labeling", "inputs": ["tokens"], "head": "crf", "labels": ["O", "B-PER", "I-PER"]}


def model_of(seed: int, **blocks: Any) -> MultiTaskModel:
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=8,
    )  # fmt: skip
    torch.manual_seed(seed)
    tasks = {name: task_def_from(name, block) for name, block in blocks.items()}
    types = {name: TASK_TYPES.get(task.task_type)(task) for name, task in tasks.items()}
    model = MultiTaskModel(Encoder(BertModel(config, add_pooling_layer=False)), types, seed=seed)
    with torch.no_grad():
        for value in model.heads.parameters():  # new ones are partly 0 in every model
            value.normal_()
    return model


def started(folder: Path, theirs: MultiTaskModel, block: dict[str, Any], **init: Any) -> tuple[TaskDef, MultiTaskModel]:
    """A model of one task, `ours`, whose head has been started from another model's."""
    save_model(theirs, str(folder / WEIGHTS))
    ours = model_of(2, ours={**block, "init_head": init})
    task = ours.task_types["ours"].task
    init_head_from(ours, task, {name: kind.task for name, kind in theirs.task_types.items()}, folder)
    return task, ours


def test_the_dense_layer_and_the_rows_of_mapped_labels_are_taken(tmp_path: Path) -> None:
    theirs = model_of(1, nli=NLI)
    untouched = model_of(2, ours=TWO).heads["ours"]
    _, ours = started(tmp_path, theirs, TWO, **{"from": "nli", "labels": {"entails": "entailment"}})
    head, source = ours.heads["ours"], theirs.heads["nli"]
    for kind in ("weight", "bias"):
        assert torch.equal(getattr(head.dense, kind), getattr(source.dense, kind))
        output, other = getattr(head.output, kind), getattr(source.output, kind)
        assert torch.equal(output[1], other[2])
        assert torch.equal(output[0], getattr(untouched.output, kind)[0])


def test_a_task_without_a_head_of_its_own_gives_the_one_that_answers_it(tmp_path: Path) -> None:
    theirs = model_of(1, nli=NLI, hard_nli={**NLI, "head_of": "nli"})
    _, ours = started(tmp_path, theirs, TWO, **{"from": "hard_nli"})
    assert torch.equal(ours.heads["ours"].dense.weight, theirs.heads["nli"].dense.weight)


def test_scores_between_tags_are_left_new(tmp_path: Path) -> None:
    theirs = model_of(1, ner=TAGS)
    untouched = model_of(2, ours=TAGS).heads["ours"]
    _, ours = started(tmp_path, theirs, TAGS, **{"from": "ner", "labels": {"O": "O"}})
    head = ours.heads["ours"]
    assert torch.equal(head.output.weight[0], theirs.heads["ner"].output.weight[0])
    for name in ("transitions", "first", "last"):
        assert torch.equal(getattr(head, name), getattr(untouched, name))


@pytest.mark.parametrize(
    ("block", "init", "message"),
    [
        (TWO, {"from": "nil"}, "ours.init_head.from: unknown task 'nil'; known: nli, ner. Did you mean 'nli'?"),
        (
            TWO,
            {"from": "nli", "labels": {"entail": "entailment"}},
            "ours.init_head.labels: unknown label 'entail'; known: neutral, entails. Did you mean 'entails'?",
        ),
        (TWO, {"from": "ner"}, "ours.init_head.from: the head of 'ner' has no dense.weight"),
    ],
)
def test_what_is_not_there_is_reported(
    tmp_path: Path, block: dict[str, Any], init: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        started(tmp_path, model_of(1, nli=NLI, ner=TAGS), block, **init)
    assert message in str(caught.value)


@pytest.mark.parametrize(("ours", "theirs"), [({}, {"dense": "none"}), ({"dense": "none"}, {})])
def test_a_head_with_other_layers_is_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """A layer of the one would be missing, or the output layer would read what it was not trained on."""
    run = RunFolder(tmp_path)
    earlier = model_of(1, nli={**NLI, "head": {"name": "pooled", **theirs}})
    write_text(run.tasks_file, tasks_to_yaml({"nli": earlier.task_types["nli"].task}))
    run.checkpoint("best").mkdir()
    save_model(earlier, str(run.checkpoint("best") / WEIGHTS))
    model = model_of(2, nli={**NLI, "head": {"name": "pooled", **ours}})
    before = model.heads["nli"].output.weight.clone()
    tasks, source = {"nli": model.task_types["nli"].task}, EncoderSource(run=str(tmp_path), heads="keep")
    with caplog.at_level("INFO"):
        init_heads(model, tasks, source)
    assert "nli: starts with a new head" in caplog.text
    assert torch.equal(model.heads["nli"].output.weight, before)
    with pytest.raises(ConfigError, match=r"nli.head: its layers differ from those of the head in .*Give the def"):
        init_heads(model, tasks, source, untrained=["nli"])


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ({"head": "token"}, {}, True),
        ({}, {"head": {"name": "token"}}, True),
        ({"head": "crf"}, {}, False),
        ({"head": "crf"}, {"head": "crf"}, True),
        ({"labels": ["O", "B-LOC"]}, {}, False),
    ],
)
def test_a_head_that_is_not_named_is_the_types_own(ours: dict[str, Any], theirs: dict[str, Any], same: bool) -> None:
    block = {"task_type": "sequence_labeling", "inputs": ["tokens"], "labels": ["O", "B-PER"]}
    assert has_same_head(*(task_def_from("ner", {**block, **more}) for more in (ours, theirs))) is same


def test_a_configuration_that_makes_no_model_is_refused_with_its_file(tmp_path: Path) -> None:
    BertConfig(attention_probs_dropout_prob=2).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=rf"{tmp_path}/config\.json: no model can be made of it: dropout probability"):
        empty_encoder(tmp_path, RunConfig(tasks="x", data="x", encoder="x", output="x"))
