"""The README's Python example works as it is shown; test_docs.py runs its commands."""

import re
from pathlib import Path

import pytest

from tests.reference.stranger import write_data, write_encoder

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """The README's blocks of a language, with the small encoder's folder in place of the hub's name."""
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return [block.replace("bert-base-uncased", "./encoder") for block in found]


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A folder with the stranger's rows and the YAML files the README shows, each under the name in its first line."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data")
    (tmp_path / "rows.tsv").write_text("1\t\tIt rained all night.\tIt rained.\n2\tentailment\tHe sings.\tShe swims.\n")
    for block in blocks("yaml"):
        Path(block.split("\n")[0].removeprefix("# ")).write_text(block)
    write_encoder(tmp_path / "encoder")
    return tmp_path


def test_the_python_api_works_in_under_fifteen_lines(stranger, capsys):
    block, _of_own_scripts = blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) < 15
    exec(compile(block, "README.md", "exec"), {})
    accuracy, prediction = capsys.readouterr().out.splitlines()
    assert 0 <= float(accuracy) <= 1
    assert prediction.split()[0] in ("entailment", "not_entailment")
