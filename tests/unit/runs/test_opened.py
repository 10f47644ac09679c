"""Which of a run's tasks rows belong to, when none is named."""

import pandas
import pytest

import mtdnn.task_types  # noqa: F401  registers them
from mtdnn.config.tasks import task_def_from
from mtdnn.errors import ConfigError, DataError
from mtdnn.runs.memory_rows import as_sequences, task_of
from mtdnn.task_types.base import TASK_TYPES

TYPES = {name: TASK_TYPES.get(name)(task_def_from(name, TASK_TYPES.get(name).sample_block)) for name in TASK_TYPES}


def chosen(*names):
    return {name: TYPES[name] for name in names}


@pytest.mark.parametrize("name", TYPES)
def test_the_only_task_is_taken_and_one_with_as_many_columns_is_found(name, tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("\n".join(TYPES[name].sample_rows) + "\n", encoding="utf-8")
    assert task_of(path, chosen(name)) == name
    other = "classification" if len(TYPES[name].columns) == 2 else "masked_lm"
    assert task_of(str(path), chosen(other, name)) == name


def test_the_only_task_is_taken_whatever_the_rows_look_like(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("1\ta\n")
    assert task_of(path, chosen("ranking")) == "ranking"
    assert task_of([("a", "b", "c")], chosen("masked_lm")) == "masked_lm"


def test_texts_are_counted_by_the_inputs():
    assert task_of([("a",)], chosen("classification", "masked_lm")) == "masked_lm"
    assert task_of([("a", ["b", "c"])], chosen("masked_lm", "ranking")) == "ranking"
    assert task_of([], chosen("masked_lm", "ranking")) == "masked_lm"


def test_named_columns_are_taken_for_the_first_tasks(tmp_path):
    (tmp_path / "rows.csv").write_text("id,text\n1,a\n")
    assert task_of(tmp_path / "rows.csv", chosen("masked_lm", "ranking")) == "masked_lm"


def test_rows_of_no_task_are_reported_with_the_numbers_of_columns(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("1\t-\ta\n")
    with pytest.raises(ConfigError) as caught:
        task_of(path, chosen("classification", "ranking"))
    assert str(caught.value) == (
        "rows: 3 columns in a row; the run's tasks have other numbers (classification: 4, ranking: 5 or more). "
        "Name the task of these rows."
    )
    with pytest.raises(ConfigError, match=r"rows: 3 texts in a row; .* \(classification: 2, masked_lm: 1\)"):
        task_of([("a", "b", "c")], chosen("classification", "masked_lm"))


def test_a_plain_text_is_a_row_of_that_text():
    assert as_sequences(["a", ("b",), "c"]) == [("a",), ("b",), ("c",)]
    assert as_sequences(pandas.Series(["a", "b"])) == [("a",), ("b",)]
    assert task_of(as_sequences(["a"]), chosen("ranking", "masked_lm")) == "masked_lm"
    for unchanged in ("rows.tsv", [{"text": "a"}], pandas.DataFrame({"text": ["a"]})):
        assert as_sequences(unchanged) is unchanged
    with pytest.raises(
        DataError, match=r"rows: 'It rained\.' is no file of rows\. Give a list of texts, as \[text\], or"
    ):
        as_sequences("It rained.")
