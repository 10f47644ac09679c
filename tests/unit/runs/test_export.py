"""An exported task is the family's own sequence classification model, with equal logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from mtdnn.batch import Batch
from mtdnn.config.tasks import task_def_from
from mtdnn.errors import ConfigError
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.runs.export import classifier, export_task
from mtdnn.task_types.base import TASK_TYPES

TINY = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 8},
    "mpnet": {"pad_token_id": 1},
    "deberta-v2": {"pooler_hidden_size": 16},
    "modernbert": {f"{name}_token_id": 0 for name in ("pad", "eos", "bos", "cls", "sep")},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
}
BLOCKS = {
    "nli": {"task_type": "classification", "inputs": ["premise", "hypothesis"], "labels": ["no", "maybe", "yes"]},
    "similarity": {"task_type": "regression", "inputs": ["first", "second"]},
    "answers": {"task_type": "ranking", "inputs": ["question", "candidate"], "labels": ["no", "yes"]},
    "choices": {"task_type": "multiple_choice", "inputs": ["premise", "question", "choice"]},
    "hard_nli": {"task_type": "classification", "labels": ["no", "maybe", "yes"], "head_of": "nli"},
    "tags": {"task_type": "sequence_labeling", "inputs": ["tokens"], "labels": ["O", "B-PER", "I-PER"]},
    "chains": {"task_type": "sequence_labeling", "inputs": ["tokens"], "labels": ["O", "B-PER"], "head": "crf"},
    "pairs": {"task_type": "classification", "inputs": ["premise", "hypothesis"], "labels": ["a", "b"], "head": "san"},
}
EXPORTED = {"nli": 3, "hard_nli": 3, "similarity": 1, "answers": 1, "choices": 1}
"""Tasks whose head has the family's layout, and how many outputs it has."""


def model_of(family: str) -> MultiTaskModel:
    torch.manual_seed(0)
    encoder = Encoder(AutoModel.from_config(AutoConfig.for_model(family, **{**TINY, **FAMILIES.get(family, {})})))
    types = {name: TASK_TYPES.get(block["task_type"])(task_def_from(name, block)) for name, block in BLOCKS.items()}
    return MultiTaskModel(encoder, types).eval()


def save_nothing(folder: Path, *, max_length: int, token_types: bool) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(("family", "given"), [("gpt2", False), ("distilbert", False), ("bert", True)])
def test_a_tokenizer_leaves_with_token_types_only_where_the_encoder_reads_them(
    tmp_path: Path, family: str, given: bool
) -> None:
    found = {}

    def save(folder: Path, **settings: Any) -> None:
        found.update(settings)

    model = decoder_of(family) if family == "gpt2" else model_of(family)
    export_task(model, "nli", tmp_path / "out", save_tokenizer=save, pad_token_id=3)
    assert found["token_types"] == given


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "qwen3", "gemma"])
@pytest.mark.parametrize("task", ["nli", "similarity"])
def test_a_decoder_is_exported_with_the_head_that_reads_its_last_token(tmp_path: Path, family: str, task: str) -> None:
    model = decoder_of(family)
    export_task(model, task, tmp_path / "out", save_tokenizer=save_nothing, pad_token_id=3)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 4:] = False
    ids = ids.masked_fill(~mask, 3)
    batch = Batch(task, {"input_ids": ids, "mask": mask}, None, ["a", "b", "c"])
    with torch.inference_mode():
        theirs = loaded(input_ids=ids, attention_mask=mask.long()).logits
        torch.testing.assert_close(theirs, model(batch), rtol=1e-4, atol=1e-5)  # float32 sums in another order


def decoder_of(family: str) -> MultiTaskModel:
    torch.manual_seed(0)
    sizes = {**TINY, "num_key_value_heads": 1, "head_dim": 8}
    if family == "gpt2":
        sizes = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    encoder = Encoder(AutoModel.from_config(AutoConfig.for_model(family, **sizes)))
    types = {name: TASK_TYPES.get(block["task_type"])(task_def_from(name, block)) for name, block in BLOCKS.items()}
    return MultiTaskModel(encoder, types).eval()


def test_a_decoder_needs_a_token_to_pad_with(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nli: export: no token to pad with.*Give the tokenizer a pad token"):
        export_task(decoder_of("llama"), "nli", tmp_path / "out", save_tokenizer=save_nothing)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "modernbert"])
@pytest.mark.parametrize("task", EXPORTED)
def test_the_exported_folder_gives_equal_logits(tmp_path: Path, family: str, task: str) -> None:
    model = model_of(family)
    export_task(model, task, tmp_path / "out", save_tokenizer=save_nothing)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        hidden = model.encoder(ids, torch.ones_like(ids, dtype=torch.bool))
        head = model.head_of(task)
        ours = head.output(head.activation(head.dense(hidden[:, 0])))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)  # float32, another order of the same sums
    assert theirs.shape == (3, EXPORTED[task])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "modernbert"])
def test_a_token_head_is_exported_for_token_classification_with_equal_logits(tmp_path: Path, family: str) -> None:
    model = model_of(family)
    export_task(model, "tags", tmp_path / "out", save_tokenizer=save_nothing)
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        ours = model.head_of("tags").output(model.encoder(ids, torch.ones_like(ids, dtype=torch.bool)))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)  # float32, another order of the same sums
    assert theirs.shape == (3, 7, 3)
    assert loaded.config.id2label == {0: "O", 1: "B-PER", 2: "I-PER"}


@pytest.mark.parametrize("task", ["nli", "hard_nli"])
def test_labels_keep_their_names_and_order(task: str) -> None:
    config = classifier(model_of("bert"), task).config
    assert config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert config.problem_type == "single_label_classification"


def test_the_one_score_of_a_ranking_task_with_two_labels_is_no_label() -> None:
    config = classifier(model_of("bert"), "answers").config
    assert (config.num_labels, config.problem_type) == (1, "regression")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("nli,similarity", "task: unknown task 'nli,similarity'; known: nli, similarity, .* Name one of them"),
        (
            "chains",
            "chains: export: a CrfHead has no counterpart .* Only heads named `pooled`, `token` or `decoder` can",
        ),
        ("pairs", "pairs: export: a SanHead has no counterpart in transformers"),
    ],
)
def test_what_cannot_be_exported_is_reported(tmp_path: Path, task: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export_task(model_of("bert"), task, tmp_path / "out", save_tokenizer=save_nothing)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["nli", "tags"])
def test_a_family_with_another_head_is_refused_rather_than_exported_wrongly(tmp_path: Path, task: str) -> None:
    with pytest.raises(ConfigError, match="The head of this family has other layers; use `mtdnn predict`"):
        export_task(model_of("modernbert"), task, tmp_path / "out", save_tokenizer=save_nothing)
    assert not (tmp_path / "out").exists()
