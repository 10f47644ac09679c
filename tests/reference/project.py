"""A small encoder folder (WordPiece tokenizer and BERT configuration, no weights) and tasks with rows for it."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from mtdnn.config.tasks import TaskDef, load_task_defs

WORDS = ["a", "the", "red", "blue", "kite", "boat", "sails", "flies", "over", "lake", "barn", "slow", "fast"]
WORDS += ["##ly", "##er", ".", ","]

DEFINITIONS = """\
nli:
  task_type: classification
  inputs: [premise, hypothesis]
  labels: [yes_, no_]
  max_length: 16
  splits: {train: train, dev: dev, test: test}
like:
  task_type: regression
  max_length: 12
"""

ROWS = {
    "nli/train": [
        "n1\tyes_\tA red kite flies.\tThe kite flies over the lake.",
        "n2\tno_\tThe boat sails slowly over the blue lake, faster, faster.\tA kite, a kite, a kite flies over.",
        "n3\tyes_\tThe barn.\tA barn.",
    ],
    "nli/dev": ["d1\tno_\tA boat.\tThe lake.", "d2\t-\tA kite.\tThe kite."],
    "like/train": ["l1\t2.5\tA red kite.", "l2\t0\tThe blue boat sails over the red lake, a kite flies."],
    "like/dev": ["e1\t1.0\tThe slow boat."],
}


def save_encoder(folder: Path, words: list[str], max_positions: int = 64, *, segments: bool = True) -> Path:
    """A BERT tokenizer of these words, and the configuration of an encoder; without segments as for DistilBERT."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    backend = Tokenizer(models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=names, **special).save_pretrained(folder)
    BertConfig(vocab_size=len(tokens), max_position_embeddings=max_positions).save_pretrained(folder)
    return folder


class Project:
    """Task definitions and rows in a folder of their own."""

    def __init__(self, root: Path) -> None:
        self.definitions, self.data, self.out = root / "tasks.yml", root / "data", root / "prepared"
        self.define(DEFINITIONS)
        for place, lines in ROWS.items():
            self.rows(place, lines)

    @property
    def tasks(self) -> dict[str, TaskDef]:
        return load_task_defs(self.definitions)

    def define(self, text: str) -> None:
        self.definitions.write_text(text, encoding="utf-8")

    def rows(self, place: str, lines: list[str]) -> Path:
        path = self.data / f"{place}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path
