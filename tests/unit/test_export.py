"""An exported task is the family's own sequence classification model, with equal logits."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from mtdnn.encoder import Encoder
from mtdnn.errors import ConfigError
from mtdnn.export import export_task, sequence_classifier
from mtdnn.model import MultiTaskModel
from mtdnn.task_def import task_def_from
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
}


def model_of(family: str) -> MultiTaskModel:
    torch.manual_seed(0)
    encoder = Encoder(AutoModel.from_config(AutoConfig.for_model(family, **{**TINY, **FAMILIES.get(family, {})})))
    types = {name: TASK_TYPES.get(block["task_type"])(task_def_from(name, block)) for name, block in BLOCKS.items()}
    return MultiTaskModel(encoder, types).eval()


def save_nothing(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "modernbert"])
@pytest.mark.parametrize("task", BLOCKS)
def test_the_exported_folder_gives_equal_logits(tmp_path: Path, family: str, task: str) -> None:
    model = model_of(family)
    export_task(model, task, tmp_path / "out", save_tokenizer=save_nothing)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        hidden = model.encoder(ids, torch.ones_like(ids, dtype=torch.bool))
        head = model.heads[task]
        ours = head.output(head.activation(head.dense(hidden[:, 0])))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)  # float32, another order of the same sums
    assert theirs.shape == (3, 3 if task == "nli" else 1)


def test_labels_keep_their_names_and_order() -> None:
    assert sequence_classifier(model_of("bert"), "nli").config.id2label == {0: "no", 1: "maybe", 2: "yes"}


def test_a_family_with_another_head_is_refused_rather_than_exported_wrongly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use `mtdnn predict`"):
        export_task(model_of("modernbert"), "nli", tmp_path / "out", save_tokenizer=save_nothing)
    assert not (tmp_path / "out").exists()
