"""Splits cut from one file: who is where, that nothing is lost or in two splits, and what is refused."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from mtdnn.config.tasks import load_task_defs
from mtdnn.data.jobs import readable_jobs
from mtdnn.data.plan import row_faults
from mtdnn.data.prepro import prepare
from mtdnn.data.store import open_store
from mtdnn.errors import ConfigError, DataError
from mtdnn.rows.subset import chosen_rows, hashed_order

CUT = "{train: {file: all, part: 0.8, seed: 3}, dev: {file: all, part: 0.1, seed: 3}, test: {rest: all}}"
FOLDS = "{train: {rest: all}, dev: {file: all, fold: 2, folds: 4, seed: 3}}"


def tasks_with(splits, **keys):
    block = {"task_type": "classification", "labels": ["x", "y"], "max_length": 64, **keys}
    return load_task_defs({"t": {**block, "splits": splits}})


def write_file(folder, count, *, name="t/all.tsv", labels=lambda number: "xy"[number % 5 == 0]):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"r{number}\t{labels(number)}\tA boat {number}.\n" for number in range(count)))
    return folder


def ids_of(tasks, data):
    jobs, faults = readable_jobs(tasks, data)
    assert faults == []
    return {job.split: [row.id for part in job.parts() for row in job.examples(part)] for job in jobs}


@given(st.integers(30, 200), st.integers(0, 5))
def test_every_row_is_in_one_part_in_the_order_of_the_file(tmp_path_factory, count, seed):
    import yaml

    data = write_file(tmp_path_factory.mktemp("rows"), count)
    found = ids_of(tasks_with(yaml.safe_load(CUT.replace("seed: 3", f"seed: {seed}"))), data)
    assert sorted(row for rows in found.values() for row in rows) == sorted(f"r{number}" for number in range(count))
    assert len(found["train"]) == count * 8 // 10
    assert len(found["train"] + found["dev"]) == count * 9 // 10
    assert found["train"] == sorted(found["train"], key=lambda name: int(name[1:]))


def test_a_part_has_the_rows_of_the_subset_of_that_size_and_seed(tmp_path):
    found = ids_of(
        tasks_with({"train": {"file": "all", "part": 0.3, "seed": 7}, "dev": {"rest": "all"}}),
        write_file(tmp_path, 100),
    )
    ids = [f"r{number}" for number in range(100)]
    assert found["train"] == [ids[row] for row in chosen_rows(ids, 30, seed=7)]


def test_folds_are_the_file_once_and_another_fold_shares_their_names(tmp_path):
    data = write_file(tmp_path, 42)
    second, third = ({"train": {"rest": "all"}, "dev": {"file": "all", "fold": fold, "folds": 4}} for fold in (2, 3))
    first_found, other_found = ids_of(tasks_with(second), data), ids_of(tasks_with(third), data)
    assert tasks_with(second)["t"].splits["train"] == ("all-1-of-4", "all-3-of-4", "all-4-of-4")
    assert first_found == other_found  # the same four folds, in other roles
    assert sorted(map(len, first_found.values())) == [10, 10, 11, 11]
    assert len({row for rows in first_found.values() for row in rows}) == 42


@given(st.lists(st.sampled_from("abc"), min_size=20, max_size=120), st.integers(1, 19))
def test_stratified_parts_have_each_label_s_share_to_one_row(labels, twentieths):
    size = len(labels) * twentieths // 20
    chosen = hashed_order([str(row) for row in range(len(labels))], seed=1, strata=labels)[:size]
    found = Counter(labels[row] for row in chosen)
    for label, count in Counter(labels).items():
        assert abs(found[label] - count * size / len(labels)) <= 1


def test_stratified_shares_are_those_of_scikit_learn(tmp_path):
    labels = ["xy"[number % 10 == 0] for number in range(200)]
    fit, _ = next(StratifiedShuffleSplit(1, train_size=0.9, random_state=0).split(labels, labels))
    cut = {"train": {"file": "all", "part": 0.9, "stratify": True}, "dev": {"rest": "all"}}
    data = write_file(tmp_path, 200, labels=labels.__getitem__)
    found = ids_of(tasks_with(cut), data)
    assert Counter(labels[int(row[1:])] for row in found["train"]) == Counter(labels[row] for row in fit)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "memory"])
def test_columns_have_the_names_of_the_file(tmp_path, encoder, kind):
    rows = [{"review": f"A boat {number}.", "stars": "xy"[number % 2], "key": f"k{number}"} for number in range(20)]
    columns = {"label": "stars", "id": "key", "text": "review"}
    tasks = tasks_with(
        {"train": {"file": f"rows.{kind}", "part": 0.8}, "dev": {"rest": f"rows.{kind}"}}, columns=columns
    )
    data = tmp_path
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    else:
        data = {"t": {"rows.memory": rows}}
    made = prepare(tasks, data=data, encoder=encoder, out=tmp_path / "out", num_workers=1)
    assert (made["t"]["train"].rows, made["t"]["dev"].rows) == (16, 4)
    store = open_store(tmp_path / "out", tasks["t"], "train")
    assert set(store.ids) <= {row["key"] for row in rows}
    assert {row["key"]: "xy".index(row["stars"]) for row in rows if row["key"] in store.ids} == dict(
        zip(store.ids, np.asarray(store.labels).tolist(), strict=True)
    )


def test_a_changed_cut_or_column_asks_for_prepro(tmp_path, encoder):
    data, out = write_file(tmp_path, 40), tmp_path / "out"
    before = tasks_with({"train": {"file": "all", "part": 0.8}, "dev": {"rest": "all"}})
    prepare(before, data=data, encoder=encoder, out=out, num_workers=1)
    now = tasks_with({"train": {"file": "all", "part": 0.5}, "dev": {"rest": "all"}})
    with pytest.raises(DataError, match=r"its cut was .*4/5.*, now .*1/2.*Run: mtdnn prepro"):
        open_store(out, now["t"], "train")
    made = prepare(now, data=data, encoder=encoder, out=out, num_workers=1)
    assert made["t"]["train"].rows == 20
    assert len(open_store(out, now["t"], "train")) == 20


def test_errors_of_a_cut_file_are_reported_once(tmp_path):
    data = write_file(tmp_path, 40)
    path = data / "t" / "all.tsv"
    path.write_text(path.read_text() + "r40\n" + "r41\tz\tA boat.\n")
    tasks = tasks_with({"train": {"file": "all", "part": 0.8}, "dev": {"rest": "all"}})
    jobs, faults = readable_jobs(tasks, data)
    lines = [str(line) for line in faults + row_faults(jobs, num_workers=1)]
    assert [line.split(": ")[0] for line in sorted(lines)] == [f"{path}:41", f"{path}:42"]


def test_an_id_that_occurs_twice_is_refused_though_its_rows_may_be_in_two_parts(tmp_path):
    data = write_file(tmp_path, 40)
    path = data / "t" / "all.tsv"
    path.write_text(path.read_text() + "r7\tx\tAnother boat.\n")
    jobs, faults = readable_jobs(tasks_with({"train": {"file": "all", "part": 0.8}, "dev": {"rest": "all"}}), data)
    assert jobs == []
    assert [str(line) for line in faults] == [f"{path}:41: id: 'r7' is also the id of {path}:8. Rename one of them."]


def test_each_repeated_id_is_reported_with_the_line_of_its_own_first_row(tmp_path):
    path = write_file(tmp_path, 4) / "t" / "all.tsv"
    path.write_text(path.read_text() + "r1\tx\tA boat.\nr4\tx\tA boat.\nr4\tx\tA boat.\nr1\tx\tA boat.\n")
    _, faults = readable_jobs(tasks_with({"train": {"file": "all", "part": 0.5}, "dev": {"rest": "all"}}), tmp_path)
    pairs = [(5, "r1", 2), (7, "r4", 6), (8, "r1", 2)]  # row, id, first row with it
    expected = [f"{path}:{row}: id: '{name}' is also the id of {path}:{first}." for row, name, first in pairs]
    assert [str(line).removesuffix(" Rename one of them.") for line in faults] == expected


def test_rows_of_a_group_stay_together(tmp_path):
    """Ranking joins the rows of a question, wherever they are."""
    (tmp_path / "t").mkdir()
    lines = [
        f"q{number % 15}-{number}\t{number // 15}\tQuestion {number % 15}?\tA boat {number}." for number in range(45)
    ]
    (tmp_path / "t" / "all.tsv").write_text("\n".join(lines) + "\n")
    block = {"task_type": "ranking", "inputs": ["question", "candidate"], "group_by": "question"}
    splits = {"train": {"file": "all", "part": 0.6}, "dev": {"rest": "all"}}
    tasks = load_task_defs({"t": {**block, "splits": splits}})
    jobs, faults = readable_jobs(tasks, tmp_path)
    assert faults == []
    counts = {job.split: [len(row.texts) for part in job.parts() for row in job.examples(part)] for job in jobs}
    assert {split: len(each) for split, each in counts.items()} == {"train": 9, "dev": 6}
    assert set(counts["train"] + counts["dev"]) == {4}  # the question and all three candidates


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": {"rest": "all"}}, "no role has a part of it"),
        ({"train": {"file": "all", "part": 1.5}}, "less than 1"),
        ({"train": {"file": "all"}}, "give either `part`, or `fold` and `folds`"),
        ({"train": {"file": "all", "fold": 3}}, "given together"),
        ({"train": {"file": "all", "fold": 6, "folds": 5}}, "there is no fold 6 of 5"),
        ({"train": {"part": 0.5}}, "names no file"),
        ({"train": {"file": "all", "part": 0.7}, "dev": {"file": "all", "part": 0.5}}, "add up to more than all rows"),
        ({"train": {"file": "all", "part": 0.5}, "dev": {"file": "all", "part": 0.5}, "test": {"rest": "all"}},
         "leave none for test"),
        ({"train": {"file": "all", "part": 0.5}, "dev": {"file": "all", "part": 0.4, "seed": 3}}, "different `seed`"),
        ({"train": {"rest": "all"}, "dev": {"rest": "all"}}, "both have the rest"),
        ({"train": {"file": "all", "fold": 1, "folds": 5}, "dev": {"file": "all", "fold": 1, "folds": 5}},
         "given twice"),
        ({"train": {"file": "all", "prt": 0.5}}, "unknown key 'prt'; known: file, part"),
        ({"train": {"rest": "all", "seed": 4}, "dev": {"file": "all", "part": 0.1}}, "is given alone"),
        ({"train": {"file": "../all", "part": 0.5}}, "cannot name a split"),
    ],
)  # fmt: skip
def test_cuts_that_make_no_sense_are_refused(splits, message):
    with pytest.raises(ConfigError) as caught:
        tasks_with(splits)
    assert message in str(caught.value)
    assert "splits" in str(caught.value)


def test_errors_have_the_line_of_their_role(tmp_path):
    file = tmp_path / "tasks.yml"
    file.write_text("t:\n  task_type: regression\n  splits:\n    train: {file: all, part: 2}\n    dev: dev\n")
    with pytest.raises(ConfigError, match=r"tasks.yml:4: t.splits.train.part: 2: input should be less than 1"):
        load_task_defs(file)


def test_only_types_with_classes_are_stratified_and_only_known_columns_renamed():
    from mtdnn.data.jobs import block_faults

    cut = {"train": {"file": "all", "part": 0.5, "stratify": True}, "dev": {"rest": "all"}}
    task = load_task_defs({"t": {"task_type": "regression", "splits": cut}})["t"]
    assert [str(line) for line in block_faults(task)] == [
        "t: t.splits: regression has no classes that could have the same share in each part. Remove `stratify`."
    ]
    task = tasks_with({"train": "train"}, columns={"labl": "stars"})["t"]
    assert "columns.labl: unknown column 'labl'; known: id, label, text. Did you mean 'label'?" in str(
        block_faults(task)[0]
    )


def test_a_renamed_column_that_is_missing_or_has_no_header_is_refused(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "train.csv").write_text("text,label\nA boat.,x\n")
    _, faults = readable_jobs(tasks_with({"train": "train"}, columns={"label": "stars"}), tmp_path)
    assert [str(line) for line in faults] == [
        f"{tmp_path}/t/train.csv:1: no column 'stars'; present: text, label. "
        "Rename the column, or name it in the task's `columns`."
    ]
    (tmp_path / "t" / "train.csv").rename(tmp_path / "t" / "train.tsv")
    _, faults = readable_jobs(tasks_with({"train": "train"}, columns={"label": "stars"}), tmp_path)
    assert "has no header: its columns are known by their order" in str(faults[0])


def test_a_cut_of_rows_that_cannot_be_read_reports_why_and_not_their_number(tmp_path):
    (tmp_path / "all.csv").write_bytes("id,label,text\n1,x,Gr\u00fc\u00df\n".encode("cp1252"))
    tasks = tasks_with({"train": {"file": "all.csv", "part": 0.5}, "dev": {"rest": "all.csv"}})
    jobs, faults = readable_jobs(tasks, tmp_path)
    found = [*faults, *(error for job in jobs for part in job.parts() for error in job.rows.read(part, job.columns))]
    assert {str(each) for each in found} == {
        f"{tmp_path}/all.csv:2: not UTF-8: byte 0xfc at position 7 of the line. Save the file as UTF-8."
    }
