"""Lists in a cell of a table are read as whoever wrote them meant them, or refused; all words are made up."""

import ast
import json
import random

import numpy as np
import pytest

from mtdnn.config.tasks import task_def_from
from mtdnn.rows.example import RowError
from mtdnn.rows.lists import is_broken, written_list
from mtdnn.rows.source import Row, RowColumns
from mtdnn.rows.text import CsvRows
from mtdnn.task_types.base import TASK_TYPES


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("['Ola', \"it's\"]", ["Ola", "it's"]),
        ("['Ola' 'Vik']", ["Ola", "Vik"]),
        ("['Ola'\n \"it's\"]", ["Ola", "it's"]),
        ("['a, b' \"c' 'd\"]", ["a, b", "c' 'd"]),
        ('["\\ud83d\\ude00", "a\\/b", null]', ["\U0001f600", "a/b", None]),
        ("[1999, 'a']", [1999, "a"]),
        ("[0 3 -100]", [0, 3, -100]),
        ("[0. 1.]", [0.0, 1.0]),
        ("['', '']", ["", ""]),
        ("[]", []),
        ("[ Ola ]", None),
        ("[{[1]}]", None),
        ("['a' 'b', 'c']", None),
        ("['a' 'b' ... 'z']", None),
        ("['\\ud83d', 'a']", None),
        ("('a', 'b')", None),
    ],
)
def test_a_list_is_read_as_json_python_or_numpy_write_it(text, found):
    assert written_list(text) == found


def test_lists_of_random_texts_are_read_back_from_all_three():
    """200 lists of up to five texts with quotes, commas, brackets, back slashes and line breaks in them."""
    draw = random.Random(0)
    letters = "ab'\", []\\\n\U0001f600é"
    for _ in range(200):
        words = ["".join(draw.choices(letters, k=draw.randint(0, 4))) for _ in range(draw.randint(2, 5))]
        for text in (json.dumps(words), json.dumps(words, ensure_ascii=False), repr(words), str(np.array(words))):
            assert written_list(text) == words, text
        assert ast.literal_eval(repr(words)) == words


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("['a' 'b' ... 'z']", True),
        ('["a" b "c"]', True),
        ("['a']", False),
        ("[ ' a ' ]", False),
        ("[Ola]", False),
        ('["a"] b', False),
    ],
)
def test_what_is_meant_as_a_list_of_texts_and_is_none_is_known(text, broken):
    assert is_broken(text) == broken


BLOCKS = {
    "tags": {"task_type": "sequence_labeling", "inputs": ["text"], "labels": ["O", "B-X", "0", "3"]},
    "choice": {"task_type": "multiple_choice", "inputs": ["question", "text"]},
    "ranking": {"task_type": "ranking", "inputs": ["question", "text"]},
    "antecedent": {"task_type": "coreference", "inputs": ["question", "text"], "labels": ["no", "yes"]},
    "set": {"task_type": "multilabel", "inputs": ["text"], "labels": ["joy", "fear"]},
}
VALUES = {"id": "1", "label": "", "question": "Ola said *it* rained.", "candidate_ids": ""}


def read(kind, **values):
    return TASK_TYPES.get(BLOCKS[kind]["task_type"])(task_def_from("t", BLOCKS[kind])).read({**VALUES, **values})


@pytest.mark.parametrize("tags", ["O B-X", "['O' 'B-X']", '["O", "B-X"]', ["O", "B-X"]])
@pytest.mark.parametrize("words", ["New York", "['New' 'York']", "['New', 'York']"])
def test_words_and_tags_are_the_same_however_they_are_listed(tags, words):
    example = read("tags", label=tags, text=words)
    assert (example.values["words"], example.label) == (["New", "York"], ["O", "B-X"])


@pytest.mark.parametrize("tags", ["[0, 3]", "[0 3]", [0, 3], "0 3"])
def test_tags_may_be_listed_as_numbers_and_words_in_brackets_may_be_numbers(tags):
    assert read("tags", label=tags, text="a b").label == ["0", "3"]
    assert read("tags", text="[0 3]").values["words"] == ["[0", "3]"]


@pytest.mark.parametrize("kind", ["tags", "choice", "ranking", "antecedent"])
def test_a_list_that_cannot_be_read_is_refused(kind):
    with pytest.raises(RowError, match=r"text: begins like a list of texts, but cannot be read as one. Write it as \["):
        read(kind, text=["['a' 'b' ... 'z']"] if kind != "tags" else "['a' 'b' ... 'z']")


def test_nothing_in_a_list_of_words_is_refused_in_a_text_as_in_a_list():
    for text in ('["a", null]', ["a", None]):
        with pytest.raises(RowError, match=r"text: nothing at position 2 of 2\. Give only texts\."):
            read("tags", text=text)


def test_labels_of_a_set_may_be_listed_as_numpy_does():
    assert read("set", text="x", label="['joy' 'fear']").label == ["joy", "fear"]


@pytest.mark.parametrize("ids", ["['p', 'q']", '["p", "q"]', "['p' 'q']", "p,q", ["p", "q"]])
@pytest.mark.parametrize("labels", ["[0, 1]", "[0. 1.]", "0,1", [0, 1]])
def test_ids_and_labels_of_candidates_in_a_cell_may_be_lists(ids, labels):
    block = {"task_type": "ranking", "inputs": ["question", "candidate"]}
    values = {"id": "1", "candidate_ids": ids, "label": labels, "question": "Which?", "candidate": ["an ox", "a cow"]}
    example = TASK_TYPES.get("ranking")(task_def_from("t", block)).read(values)
    assert (example.values["ids"], example.label) == (["p", "q"], [0.0, 1.0])


@pytest.mark.parametrize("cell", ["['an ox', 'a cow']", '["an ox", "a cow"]', "['an ox' 'a cow']"])
def test_candidates_in_a_cell_are_several(tmp_path, cell):
    quoted = cell.replace('"', '""')
    (tmp_path / "rows.csv").write_text(f'text,label\n"{quoted}",1\n[sic] an ox,0\n', encoding="utf-8")
    columns = RowColumns(("id", "label", "text"), repeats_last=True)
    rows = list(CsvRows(tmp_path / "rows.csv").read_all(columns))
    assert all(isinstance(row, Row) for row in rows)
    assert [row.values["text"] for row in rows] == [["an ox", "a cow"], ["[sic] an ox"]]
