"""What `mtdnn init` guesses of a file, why, and which files it refuses."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from mtdnn.cli.main import main
from mtdnn.config.tasks import load_task_defs, task_def_from
from mtdnn.data.encode import Job
from mtdnn.errors import ConfigError, DataError
from mtdnn.rows.places import rows_of
from mtdnn.runs.guess import guessed
from mtdnn.runs.starter import start
from tests.reference.small_world import make_world, succeed


def write_rows(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(f'"{cell}"' for cell in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join("\t".join(map(str, row.values())) + "\n" for row in rows))
    return path


def rows_of_kind(kind: str, count: int = 40) -> list[dict]:
    text = {"text": "A red kite flies over the lake."}
    labels = {
        "classes": lambda number: ["bad", "good", "middling"][number % 3],
        "stars": lambda number: number % 5 + 1,
        "score": lambda number: number / 7,
        "sets": lambda number: [["sport"], ["sport", "money"], [], ["money"]][number % 4],
        "tags": lambda number: ["O", "O", "B-ANIMAL", "O", "O", "O", "B-PLACE"],
    }[kind]
    return [{"id": f"r{number}", "label": labels(number), **text} for number in range(count)]


def test_a_wrong_flag_leaves_nothing_in_the_way_of_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown column 'nope'"):
        start(tmp_path / "new", rows=None, encoder="tiny", label="nope")
    for name, found in (("my task", "may have only letters"), ("type", "is a word that PyTorch reserves")):
        with pytest.raises(ConfigError, match=rf"--name: '{name}': .*{found}"):
            start(tmp_path / "new", rows=None, encoder="tiny", name=name)
    start(tmp_path / "new", rows=None, encoder="tiny", label="verdict")


def test_a_file_whose_name_no_task_may_have_gives_its_folders(tmp_path: Path) -> None:
    """`train.csv` is the most usual name; PyTorch keeps heads by name, and has `train` for itself."""
    for folder, expected in (("reviews", "reviews"), ("train", "task")):
        (tmp_path / folder).mkdir()
        assert guessed(write_rows(tmp_path / folder / "train.csv", rows_of_kind("classes"))).name == expected


def test_a_name_that_yaml_would_read_as_false_is_in_quotes(tmp_path: Path) -> None:
    guess = guessed(write_rows(tmp_path / "no.csv", rows_of_kind("classes")))
    (tmp_path / "tasks.yml").write_text(guess.as_yaml())
    assert list(load_task_defs(tmp_path / "tasks.yml")) == ["no"]


@pytest.mark.parametrize(
    ("kind", "suffix", "expected"),
    [
        ("classes", ".csv", {"task_type": "classification", "labels": ["bad", "good", "middling"]}),
        ("classes", ".tsv", {"task_type": "classification", "inputs": ["text"]}),
        ("stars", ".parquet", {"task_type": "classification", "labels": ["1", "2", "3", "4", "5"]}),
        ("score", ".jsonl", {"task_type": "regression"}),
        ("sets", ".jsonl", {"task_type": "multilabel", "labels": ["money", "sport"]}),
        ("tags", ".jsonl", {"task_type": "sequence_labeling", "labels": ["B-ANIMAL", "B-PLACE", "O"]}),
    ],
)
def test_the_type_follows_from_the_labels(tmp_path, kind, suffix, expected):
    guess = guessed(write_rows(tmp_path / f"my rows{suffix}", rows_of_kind(kind)))
    assert guess.name == "my-rows"
    assert {key: guess.block[key] for key in expected} == expected
    assert guess.reasons.keys() == guess.block.keys()


def test_columns_are_known_by_their_names_and_values(tmp_path):
    rows = [
        {"stars": "good" if number % 3 else "bad", "key": number, "title": "A kite.", "body": "It flies over the lake."}
        for number in range(30)
    ]
    guess = guessed(write_rows(tmp_path / "reviews.csv", rows))
    assert guess.block["inputs"] == ["title", "body"]
    assert guess.block["columns"] == {"label": "stars", "id": "key"}
    assert guess.reasons["labels"] == "bad 10, good 20"
    assert guess.block["metrics"] == ["f1_macro", "accuracy"]  # 67 % have one label
    assert guess.block["splits"] == {
        "train": {"file": "reviews.csv", "part": 0.8, "stratify": True, "seed": 1},
        "dev": {"rest": "reviews.csv"},
    }


@pytest.mark.parametrize("bare", [0, 7, 39])
def test_every_row_of_a_jsonl_adds_its_columns(tmp_path, bare):
    """The first row decided for all: a label that it lacked was in no column, and one that it alone had hid others."""
    rows = rows_of_kind("classes")
    rows[bare] = {"id": "bare", "text": "A boat lies in the lake."}
    rows[20]["comment"] = "Ask Ann."
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=f"label: 1 of 40 rows have no label, row {bare + 1} first"):
        guessed(path)
    rows.pop(bare)
    guess = guessed(write_rows(path, [rows[20], *rows]))
    assert guess.block["inputs"] == ["text"] and guess.block["labels"] == ["bad", "good", "middling"]


def test_paths_that_the_first_rows_lack_are_found_in_later_ones(tmp_path):
    """An unmarked row of a labelling tool has `annotations: []`; a null leads nowhere."""
    text = {"data": {"text": "A red kite flies."}}
    rows = [{**text, "marks": [{"choice": ["good", "bad"][number % 2]}]} for number in range(20)]
    path = write_rows(tmp_path / "rows.jsonl", [{**text, "marks": []}, {"data": None}, *rows])
    assert rows_of(path).leaves() == ["data.text", "marks.0.choice"]
    path = write_rows(path, [{**text, "marks": []}, *rows])
    with pytest.raises(DataError, match=r"marks.0.choice: 1 of 21 rows have no label, row 1 first"):
        guessed(path)


def test_a_column_that_few_rows_have_is_not_taken_for_the_labels(tmp_path):
    rows = [{"review": "A red kite flies.", "verdict": ["good", "bad", "fair"][number % 3]} for number in range(30)]
    rows[0]["note"] = "odd"
    assert guessed(write_rows(tmp_path / "rows.jsonl", rows)).block["columns"] == {"label": "verdict"}


def test_a_column_of_labels_without_a_known_name_has_few_short_values(tmp_path):
    rows = [{"what": f"The kite {number} flies.", "verdict": "ab"[number % 2]} for number in range(30)]
    assert guessed(write_rows(tmp_path / "rows.csv", rows)).block["columns"] == {"label": "verdict"}


def test_lines_of_text_are_for_masked_language_modelling(tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"The kite {number} flies.\n" for number in range(20)))
    guess = guessed(tmp_path / "lines.txt")
    assert (guess.block["task_type"], guess.rows) == ("masked_lm", 20)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("few.csv", "label,text\nx,A kite.\n", "1 rows. Give at least 10"),
        ("header.tsv", "id\tlabel\ttext\n" + "1\tx\tA kite.\n" * 20, ":1: the first line is a header"),
        ("wide.tsv", "1\tx\ta\tb\tc\n" * 20, "5 columns; a .tsv has id, label and one or two texts"),
        ("no_label.csv", "".join(f"the kite {n} flies,over the {n} lake\n" for n in range(20)), "no column of labels"),
        ("missing.csv", "label,text\n" + "x,A kite.\n,A boat.\ny,A lake.\n" * 5, "5 of 15 rows have no label, row 2"),
        ("names.csv", "label,text\n" + "".join(f"l{n},A kite.\n" for n in range(20)), "neither classes nor numbers"),
        ("comma.csv", "label;text\n" + "3,5;A kite.\n1,25;A boat.\n" * 9, "'3,5': decimal commas, or two labels?"),
        ("end.csv", "label,text\n" + '"a,b",A.\n"a,",A.\nb,A.\nc,A.\n"b,c",A.\n' * 9, "'a,' has an empty label, in"),
        ("three.csv", "label,a,b,c\n" + "x,A kite.,A kite.,A kite.\ny,A a.,A b.,A c.\n" * 9, "3 columns of texts"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_show_what_to_learn_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        guessed(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_columns_may_be_named(tmp_path):
    rows = [
        {"stars": None, "verdict": "good" if n % 2 else "bad", "title": "A kite", "body": "It flies."}
        for n in range(20)
    ]
    path = write_rows(tmp_path / "rows.parquet", rows)
    guess = guessed(path, label="verdict", texts=["body", "title"])
    assert (guess.block["inputs"], guess.block["labels"]) == (["body", "title"], ["bad", "good"])
    with pytest.raises(ConfigError) as caught:
        guessed(path, label="verdikt", texts=["body", "titel"])
    assert [line.split("; known")[0] for line in caught.value.lines] == [
        "--label: unknown column 'verdikt'", "--text: unknown column 'titel'",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_column_whose_name_begins_like_anothers_is_a_column(tmp_path, suffix):
    """`text` was left out where there is a `text.lang`, which became the text; so was `label` beside `label.sure`."""
    rows = [
        {"text": f"A kite {n}.", "text.lang": "en", "label": ["bad", "good"][n % 2], "label.sure": "1"}
        for n in range(20)
    ]
    guess = guessed(write_rows(tmp_path / f"rows{suffix}", rows))
    assert (guess.block["inputs"], guess.block["labels"]) == (["text"], ["bad", "good"])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_text_in_a_column_named_label_or_id_is_read_under_another_name(tmp_path, suffix):
    """The label was learnt from itself."""
    rows = [{"label": f"A kite {n}.", "id": "A boat.", "verdict": ["bad", "good"][n % 2]} for n in range(20)]
    path = write_rows(tmp_path / f"rows{suffix}", rows)
    guess = guessed(path, label="verdict", texts=["label", "id"])
    assert guess.block["inputs"] == ["text", "text_a"]
    task = task_def_from("t", {key: guess.block[key] for key in ("task_type", "inputs", "columns", "labels")})
    job = Job(task, "train", rows_of(path), "required")
    assert [each.texts for part in job.parts() for each in job.examples(part)][3] == ("A kite 3.", "A boat.")


def test_the_columns_of_a_tsv_are_not_to_be_chosen(tmp_path):
    """`--text hypothesis,premise` gave the columns each other's name, and left their order."""
    rows = [
        {"id": n, "label": ["bad", "good"][n % 2], "premise": "A kite.", "hypothesis": "A boat."} for n in range(20)
    ]
    path = write_rows(tmp_path / "rows.tsv", rows)
    assert guessed(path).block["inputs"] == ["premise", "hypothesis"]
    for flag, given in (("--text", {"texts": ["hypothesis", "premise"]}), ("--label", {"label": "premise"})):
        with pytest.raises(
            ConfigError, match=f"{flag}: the columns of a .tsv are known by their order: id, label, prem"
        ):
            guessed(path, **given)


def test_labels_that_are_texts_in_brackets_are_such(tmp_path):
    """A path into a text was named, which the rows do not have."""
    rows = [{"text": f"A kite {n}.", "label": ["[pos]", "[neg]"][n % 2]} for n in range(20)]
    guess = guessed(write_rows(tmp_path / "rows.jsonl", rows))
    assert guess.block["labels"] == ["[neg]", "[pos]"] and "columns" not in guess.block


def test_rows_of_a_labelling_tool_are_guessed_by_their_paths(tmp_path):
    rows = [{"data": {"text": "A kite flies."}, "accept": [["bad", "good"][n % 2]]} for n in range(20)]
    guess = guessed(write_rows(tmp_path / "rows.jsonl", rows), label="accept")
    assert guess.block["inputs"] == ["data.text"]
    assert guess.block["columns"] == {"label": "accept.0"}
    assert guess.block["labels"] == ["bad", "good"]
    start(tmp_path / "new", rows=tmp_path / "rows.jsonl", encoder="encoder", label="accept")


def test_a_file_in_another_encoding_and_a_folder_are_refused_as_such(tmp_path):
    lines = "label,text\n" + "gut,Grüße\n" * 20
    for encoding, found in (("cp1252", ":2: not UTF-8: byte 0xfc"), ("utf-16", ":1: not UTF-8 but UTF-16")):
        (tmp_path / "rows.csv").write_bytes(lines.encode(encoding))
        with pytest.raises(DataError, match=f"rows.csv{found}"):
            guessed(tmp_path / "rows.csv")
    with pytest.raises(DataError, match="a folder"):
        guessed(tmp_path)


def test_rows_with_errors_are_refused_and_nothing_is_written(tmp_path):
    rows = [*rows_of_kind("classes"), {"id": "r3", "label": "good", "text": "A second r3."}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"rows.jsonl:41: id: 'r3' is also the id of .*rows.jsonl:4"):
        start(tmp_path / "new", rows=path, encoder="encoder")
    assert not (tmp_path / "new" / "tasks.yml").exists()


def test_files_that_exist_are_not_overwritten(tmp_path):
    (tmp_path / "tasks.yml").write_text("mine: {}\n")
    (tmp_path / "run.yml").write_text("epochs: 1\n")
    path = write_rows(tmp_path / "rows.jsonl", rows_of_kind("classes"))
    with pytest.raises(ConfigError) as caught:
        start(tmp_path, rows=path, encoder="encoder")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        str(tmp_path / "tasks.yml"), str(tmp_path / "run.yml"),
    ]  # fmt: skip
    assert (tmp_path / "tasks.yml").read_text() == "mine: {}\n"


def test_words_that_yaml_reads_as_something_else_come_back_as_they_were(tmp_path):
    words = ["yes", "no", "null", "1e3", "a: b"]
    rows = [{"label": words[number % 5], "text": "A kite flies."} for number in range(40)]
    guess = guessed(write_rows(tmp_path / "rows.jsonl", rows))
    (tmp_path / "tasks.yml").write_text(guess.as_yaml())
    assert set(load_task_defs(tmp_path / "tasks.yml")["rows"].labels) == {*words}


def test_neither_a_folder_nor_a_file_is_an_error(capsys):
    assert main(["init"]) == 2
    assert (
        "neither a folder nor a file is given. mtdnn init FOLDER, or mtdnn init --from FILE." in capsys.readouterr().err
    )


@pytest.mark.parametrize("kind", ["starter", "classes", "sets", "score", "tags"])
def test_what_init_writes_is_checked_prepared_and_trained_as_it_is(tmp_path, monkeypatch, kind):
    encoder = make_world(tmp_path / "world") / "encoder"
    folder = tmp_path / "project"
    if kind == "starter":
        printed = succeed(f"init {folder} --encoder {encoder}")
    else:
        path = write_rows(tmp_path / "rows.jsonl", rows_of_kind(kind))
        printed = succeed(f"init {folder} --from {path} --encoder {encoder}")
    commands = [line.removeprefix("mtdnn ") for line in printed.splitlines() if line.startswith("mtdnn ")]
    monkeypatch.chdir(folder)
    for command in commands:
        succeed(command + (" --max_steps 2" if command.startswith("train") else ""))
    assert (folder / "runs" / "first" / "results.json").is_file()
