"""The README's Python example works as it is shown; test_docs.py runs its commands."""

import re
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from data_prep.demo import train_tokenizer

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

ROWS = {
    "rte": (("entailment", "It rained all night.", "It rained."), ("not_entailment", "He sings.", "She swims.")),
    "mrpc": (("1", "A goat eats grass.", "Grass is eaten by a goat."), ("0", "He sings.", "It rained all night.")),
}


def blocks(language):
    """The README's blocks of a language, with the small encoder's folder in place of the hub's name."""
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return [block.replace("bert-base-uncased", "./encoder") for block in found]


def write_encoder():
    torch.manual_seed(0)
    tokenizer = train_tokenizer([text for rows in ROWS.values() for row in rows for text in row[1:]])
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config).save_pretrained("encoder")
    tokenizer.save_pretrained("encoder")


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A folder with the stranger's rows and the YAML files the README shows, each under the name in its first line."""
    monkeypatch.chdir(tmp_path)
    for task, kinds in ROWS.items():
        (tmp_path / "data" / task).mkdir(parents=True)
        for split, count in (("train", 8), ("dev", 4)):
            rows = ("\t".join((f"{split}-{number}", *kinds[number % 2])) + "\n" for number in range(count))
            (tmp_path / "data" / task / f"{split}.tsv").write_text("".join(rows))
    (tmp_path / "rows.tsv").write_text("1\t\tIt rained all night.\tIt rained.\n2\tentailment\tHe sings.\tShe swims.\n")
    for block in blocks("yaml"):
        Path(block.split("\n")[0].removeprefix("# ")).write_text(block)
    write_encoder()
    return tmp_path


def test_the_python_api_works_in_under_fifteen_lines(stranger, capsys):
    (block,) = blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) < 15
    exec(compile(block, "README.md", "exec"), {})
    accuracy, prediction = capsys.readouterr().out.splitlines()
    assert 0 <= float(accuracy) <= 1
    assert prediction.split()[0] in ("entailment", "not_entailment")
