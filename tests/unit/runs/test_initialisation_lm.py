"""A head for masked words starts from the one the encoder was pretrained with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from mtdnn.batch import Batch
from mtdnn.config.tasks import task_def_from
from mtdnn.model import MultiTaskModel
from mtdnn.networks.encoder import Encoder
from mtdnn.runs.initialisation import init_lm_heads, pretrained_lm_head
from mtdnn.task_types.masked_lm import MaskedLM

TINY = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
NO_IDS = {name: 0 for name in ("pad_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id")}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
    "mpnet": {"pad_token_id": 1},
    "deberta-v2": {},
    # with layers of both kinds of attention: transformers 5.7 refuses a configuration with one kind
    "modernbert": {**NO_IDS, "num_hidden_layers": 2, "global_attn_every_n_layers": 2},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
}


def shaken(model: torch.nn.Module) -> None:
    """Draw all weights anew: biases of 0 would hide a wrong one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    model.tie_weights()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scores_of_hidden_words_are_those_of_the_pretrained_model(tmp_path: Path, family: str) -> None:
    theirs = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **{**TINY, **FAMILIES[family]})).eval()
    shaken(theirs)
    theirs.save_pretrained(tmp_path)
    encoder = Encoder.from_pretrained(tmp_path)
    model = MultiTaskModel(encoder, {"lm": MaskedLM(task_def_from("lm", {"task_type": "masked_lm"}))}).eval()
    init_lm_heads(model, str(tmp_path))
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(1))
    whole = torch.ones_like(ids, dtype=torch.bool)
    batch = Batch("lm", {"input_ids": ids, "mask": whole}, None, ["a", "b", "c"], {"places": torch.arange(ids.numel())})
    with torch.inference_mode():
        expected = theirs(input_ids=ids, attention_mask=whole.long()).logits.flatten(0, 1)
        # ELECTRA and ALBERT take other approximations of GELU than the exact one
        torch.testing.assert_close(model(batch), expected, atol=2e-3, rtol=1e-3)


def test_an_encoder_saved_without_that_head_gets_a_new_one(tmp_path: Path) -> None:
    AutoModel.from_config(AutoConfig.for_model("bert", **TINY)).save_pretrained(tmp_path)
    assert pretrained_lm_head(str(tmp_path)) is None


def test_the_type_in_a_configuration_does_not_matter(tmp_path: Path) -> None:
    """It may be no type at all; the encoder itself is loaded in that of the run, too."""
    AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **TINY)).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": 0.5}))
    found = pretrained_lm_head(str(tmp_path))
    assert found is not None and {value.dtype for value in found.values()} == {torch.float32}
