"""Rows on disk → prepared splits: what is in them, what is refused, and that nothing is ever half there."""

import errno
import json
import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from filelock import FileLock
from transformers import AutoTokenizer, ByT5Tokenizer

import mtdnn.data.prepro as prepro
from mtdnn.data.arrow import SplitFile, SplitWriter
from mtdnn.data.encode import Job
from mtdnn.data.prepro import prepare, prepare_rows
from mtdnn.data.split_faults import IdHashes
from mtdnn.data.store import open_prepared, open_store
from mtdnn.errors import ConfigError, DataError
from mtdnn.rows.memory import table_rows
from mtdnn.rows.places import open_split, rows_of
from mtdnn.rows.text import TextRows
from mtdnn.tokens.loading import load_tokenizer
from tests.reference.project import WORDS, save_encoder

SHARED = Path(__file__).parents[4] / "shared"


def prepared(project, encoder, tasks=None, **settings):
    tasks = tasks or project.tasks
    return prepare(tasks, data=project.data, encoder=encoder, out=project.out, num_workers=1, **settings)


def files_of(folder):
    """When each file was written, without the lock, which filelock 3.20 truncates each time it is taken."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in files}


def faults_of(project, encoder):
    with pytest.raises(DataError) as caught:
        prepared(project, encoder)
    return [line.replace(f"{project.data}/", "") for line in caught.value.lines]


def test_tokens_segments_and_labels_are_those_of_the_tokenizer_and_the_rows(project, encoder):
    prepared(project, encoder)
    plain = AutoTokenizer.from_pretrained(encoder)
    rows = [line.split("\t") for line in (project.data / "nli/train.tsv").read_text().splitlines()]
    wanted = plain([row[2] for row in rows], [row[3] for row in rows], truncation=True, max_length=16)
    store = load_from_disk(project.out / "nli/train")
    assert store["input_ids"][:] == wanted["input_ids"]
    assert store["token_type_ids"][:] == wanted["token_type_ids"]
    assert store["id"][:] == ["n1", "n2", "n3"]
    assert store["label"][:] == [0, 1, 0]
    assert store["truncated"][:] == [False, True, False]
    like = load_from_disk(project.out / "like/train")
    assert like["label"][:] == [2.5, 0.0]
    assert like["truncated"][:] == [False, True]  # 12 tokens hold 10 of its 11 words and full stop


def test_the_manifest_counts_what_is_in_the_split(project, encoder):
    made = prepared(project, encoder)
    manifest = made["nli"]["dev"]
    assert (manifest.rows, manifest.truncated_rows) == (2, 0)
    assert manifest.labels == {"unlabelled": 1, "counts": {"yes_": 0, "no_": 1}}
    assert manifest.lengths["total"] == 9 + 9  # 3 special tokens, 2 words and a full stop in each of two texts
    assert made["like"]["train"].labels["values"] == {
        "min": 0.0, "q25": 0.625, "median": 1.25, "q75": 1.875, "max": 2.5, "mean": 1.25,
    }  # fmt: skip
    written = json.loads((project.out / "nli/dev/manifest.json").read_text())
    assert written["rows"] == 2
    assert written["source"]["path"] == str(project.data / "nli/dev.tsv")


def test_a_missing_test_split_is_a_warning_and_a_missing_dev_split_a_fault(project, encoder, caplog):
    assert set(prepared(project, encoder)["nli"]) == {"train", "dev"}
    assert "nli/test: no rows for this split" in caplog.text
    shutil.rmtree(project.out)
    (project.data / "like/dev.tsv").unlink()
    assert faults_of(project, encoder)[0].startswith("like/dev: no rows for this split")
    assert not project.out.exists()


def test_unchanged_input_is_left_alone_and_a_change_makes_only_its_split_anew(project, encoder):
    prepared(project, encoder)
    before = files_of(project.out)
    prepared(project, encoder)
    assert files_of(project.out) == before
    project.rows("nli/dev", ["d1\tyes_\tA boat.\tThe lake."])
    made = prepared(project, encoder)
    changed = {path for path, time in files_of(project.out).items() if before.get(path) != time}
    assert {path.parts[:2] for path in changed} == {("nli", "dev")}
    assert made["nli"]["dev"].labels["counts"] == {"yes_": 1, "no_": 0}


def test_only_keys_that_change_what_is_stored_make_a_split_anew(project, encoder):
    prepared(project, encoder)
    before = files_of(project.out)
    text = project.definitions.read_text()
    project.define(text.replace("  max_length: 12", "  max_length: 12\n  dropout: 0.4\n  batch_size: 3\n  max_rows: 1"))
    prepared(project, encoder)
    assert files_of(project.out) == before
    project.define(text.replace("max_length: 12", "max_length: 11"))
    prepared(project, encoder)
    changed = {path for path, time in files_of(project.out).items() if before.get(path) != time}
    assert {path.parts[0] for path in changed} == {"like"}


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_no_prepro_wrote_is_never_replaced(project, encoder, kind):
    place = project.out / "nli/train"
    place.parent.mkdir(parents=True)
    mine = place if kind == "file" else place / "raw.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("my only copy")
    held = "a file" if kind == "file" else "a folder that is not a prepared split"
    with pytest.raises(DataError, match=f"nli/train: out: {held} is where .* Give another --out, or move it away"):
        prepared(project, encoder)
    assert [path for path in project.out.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "my only copy"


def test_an_empty_folder_in_the_place_of_a_split_is_used(project, encoder):
    (project.out / "nli/train").mkdir(parents=True)
    assert prepared(project, encoder)["nli"]["train"].rows == 3


def test_every_bad_row_of_every_file_is_in_one_report_and_nothing_is_written_for_any_task(project, encoder):
    project.rows(
        "nli/train",
        ["n1\tyes_\tA.\tB.", "n2\tyess_\tA.\tB.", "n3\t-\tA.\tB.", "n4\tno_\t \tB.", "n5\tno_\tA.", "n1\tno_\tA.\tB."],
    )
    project.rows("nli/dev", ["d1\tmaybe\tA boat.\tThe lake."])
    place = f"{project.definitions}:4"
    assert faults_of(project, encoder) == [
        f"nli/train.tsv:2: label: 'yess_' is not in nli.labels ({place}): yes_, no_. Did you mean 'yes_'? "
        "Fix the row, or add the label.",
        "nli/train.tsv:3: label: none, in a train split. Give a label, or remove the row.",
        "nli/train.tsv:4: premise: empty text. Give the text, or remove the row.",
        "nli/train.tsv:5: 3 columns; 4 expected: id, label, premise, hypothesis. "
        "Columns are separated by one tab; a text has none. "
        "A row without a label has an empty column; the file has no header.",
        "nli/train.tsv:6: id: 'n1' is also the id of nli/train.tsv:1. Rename one of them.",
        f"nli/dev.tsv:1: label: 'maybe' is not in nli.labels ({place}): yes_, no_. Fix the row, or add the label.",
    ]
    assert not project.out.exists()


def test_faults_of_blocks_and_of_the_rows_of_sound_ones_come_in_one_report(project, encoder):
    text = project.definitions.read_text().replace("max_length: 12", "max_length: 12\n  metrics: [pearsn]")
    project.define(f"{text}other:\n  task_type: regression\n  dropout: 2\n")
    project.rows("nli/train", ["n1\tmaybe\tA.\tB."])
    project.rows("nli/dev", ["d1\tyes_\tA.\tB.", "d1\tno_\tA.\tC."])
    with pytest.raises(ConfigError) as caught:
        prepared(project, encoder, tasks=project.definitions)
    lines = [line.replace(f"{project.data}/", "").split("; known")[0] for line in caught.value.lines]
    assert lines == [
        f"{project.definitions}:13: other.dropout: 2: input should be less than 1. Give another value, or leave it out "
        "for the default, 0.1.",
        f"{project.definitions}:10: like.metrics: unknown metric 'pearsn'",
        f"nli/train.tsv:1: label: 'maybe' is not in nli.labels ({project.definitions}:4): yes_, no_. "
        "Fix the row, or add the label.",
        "nli/dev.tsv:2: id: 'd1' is also the id of nli/dev.tsv:1. Rename one of them.",
    ]
    assert not project.out.exists()


def test_what_a_killed_run_left_is_removed_when_the_next_one_has_faults(project, encoder, monkeypatch):
    promote = prepro.promote
    monkeypatch.setattr(prepro, "promote", lambda out, job: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepared(project, encoder)
    monkeypatch.setattr(prepro, "promote", promote)
    assert (project.out / ".staging/nli/train").is_dir()
    project.rows("like/dev", ["e1\tmuch\tA."])
    assert len(faults_of(project, encoder)) == 1
    assert [path.name for path in project.out.iterdir()] == [".lock"]


@pytest.mark.parametrize("label", ["nan", "inf", "much"])
def test_a_label_that_is_no_finite_number_is_refused(project, encoder, label):
    project.rows("like/train", [f"l1\t{label}\tA red kite."])
    assert faults_of(project, encoder)[0].startswith(f"like/train.tsv:1: label: '{label}' is not a")


def test_duplicate_ids_are_reported_with_both_lines(project, encoder):
    project.rows("nli/dev", ["d1\tno_\tA.\tB.", "d2\tno_\tA.\tB.", "d1\tyes_\tC.\tD."])
    found = faults_of(project, encoder)
    assert found == ["nli/dev.tsv:3: id: 'd1' is also the id of nli/dev.tsv:1. Rename one of them."]


def test_twins_are_found_among_more_ids_than_are_held_at_once(project, encoder, monkeypatch):
    monkeypatch.setattr(IdHashes, "AT_ONCE", 4)
    rows = [f"d{number}\tno_\tA kite {number}.\tB." for number in range(100)]
    project.rows("nli/dev", [*rows, rows[0], "d7\tyes_\tC.\tD."])
    found = faults_of(project, encoder)
    assert found == [
        "nli/dev.tsv:101: id: 'd0' is also the id of nli/dev.tsv:1. Rename one of them.",
        "nli/dev.tsv:102: id: 'd7' is also the id of nli/dev.tsv:8. Rename one of them.",
    ]
    project.rows("nli/dev", rows)
    assert prepared(project, encoder)["nli"]["dev"].rows == 100
    assert {path.name for path in (project.out / "nli/dev").iterdir()} == {
        "data-00000-of-00001.arrow", "dataset_info.json", "manifest.json", "state.json",
    }  # fmt: skip


def test_counts_of_the_parts_sum_to_those_of_the_split(project, encoder, monkeypatch):
    rows = {
        "nli/train": [f"n{i}\t{'yes_' if i % 3 else 'no_'}\tA kite {'flew ' * (i % 12)}.\tB." for i in range(300)],
        "nli/dev": [f"n{i}\t{'' if i % 4 else 'no_'}\tA kite.\tB." for i in range(300)],
        "like/train": [f"l{i}\t{i / 7}\tA boat." for i in range(300)],
    }
    for name, lines in rows.items():
        project.rows(name, lines)
    whole = prepared(project, encoder)
    parts = TextRows.parts
    monkeypatch.setattr(TextRows, "parts", lambda self, size=700: parts(self, size))
    shutil.rmtree(project.out)
    for task, splits in prepared(project, encoder).items():
        for split, manifest in splits.items():
            wanted = whole[task][split]
            for key in ("rows", "truncated_rows", "labels", "lengths"):
                assert getattr(manifest, key) == getattr(wanted, key), (task, split, key)
    assert whole["nli"]["train"].truncated_rows > 0
    assert whole["nli"]["dev"].labels == {"unlabelled": 225, "counts": {"yes_": 0, "no_": 75}}
    values = np.float32([i / 7 for i in range(300)])
    assert whole["like"]["train"].labels["values"] == pytest.approx(
        {"min": 0, "q25": np.quantile(values, 0.25), "median": np.median(values), "q75": np.quantile(values, 0.75),
         "max": values[-1], "mean": values.mean()}, rel=1e-3,
    )  # fmt: skip


def test_a_file_full_of_faults_shows_the_first_twenty(project, encoder):
    project.rows("nli/train", [f"n{number}\twhat\tA.\tB." for number in range(50)])
    found = faults_of(project, encoder)
    assert len(found) == 21
    assert found[-1] == "nli/train.tsv: 30 more errors like these"


@pytest.mark.parametrize(
    ("ending", "content"), [("csv", "id,label,text\n"), ("csv", "id,label,text\n\n \n"), ("jsonl", "\n\n")]
)
def test_a_file_that_holds_no_row_is_a_fault(project, encoder, ending, content):
    (project.data / "like/dev.tsv").unlink()
    (project.data / f"like/dev.{ending}").write_text(content)
    assert faults_of(project, encoder) == [f"like/dev.{ending}: no rows. Add rows, or remove the split."]
    assert not (project.out / "like").exists()


def test_faults_leave_the_split_made_before_in_its_place(project, encoder):
    prepared(project, encoder)
    before = files_of(project.out / "nli")
    project.rows("nli/dev", ["d1\tmaybe\tA boat.\tThe lake."])
    faults_of(project, encoder)
    assert files_of(project.out / "nli") == before


def test_several_processes_give_the_same_file_as_one(project, encoder, monkeypatch):
    project.rows("nli/train", [f"n{number}\tyes_\tA kite {number}.\tThe lake." for number in range(300)])
    parts = TextRows.parts
    monkeypatch.setattr(TextRows, "parts", lambda self, size=700: parts(self, size))
    prepared(project, encoder)
    one = (project.out / "nli/train/data-00000-of-00001.arrow").read_bytes()
    shutil.rmtree(project.out)
    prepare(project.tasks, data=project.data, encoder=encoder, out=project.out, num_workers=3)
    assert (project.out / "nli/train/data-00000-of-00001.arrow").read_bytes() == one
    assert SplitFile(project.out / "nli/train").column("id") == [f"n{number}" for number in range(300)]


def test_a_full_disk_leaves_nothing_half_written_and_says_so(project, encoder, monkeypatch):
    def no_room(self, batch):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SplitWriter, "write", no_room)
    with pytest.raises(DataError, match=r"no space left on the disk. Free disk space and run the same command again"):
        prepared(project, encoder)
    assert not list(project.out.rglob("*.arrow"))


def test_a_killed_run_is_gone_on_with_from_its_whole_splits(project, encoder, monkeypatch):
    finish, calls = prepro._finish, []

    def killed_at_the_second(job, *rest):
        calls.append(job.key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return finish(job, *rest)

    monkeypatch.setattr(prepro, "_finish", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepared(project, encoder)
    assert not (project.out / "nli").exists()
    monkeypatch.setattr(prepro, "_finish", lambda job, *rest: (calls.append(job.key), finish(job, *rest))[1])
    prepared(project, encoder)
    assert calls == [("nli", "train"), ("nli", "dev"), ("nli", "dev"), ("like", "train"), ("like", "dev")]
    assert not (project.out / ".staging").exists()


def test_whole_splits_of_a_killed_run_that_no_longer_fit_are_not_used(project, encoder, monkeypatch):
    promote = prepro.promote
    monkeypatch.setattr(prepro, "promote", lambda out, job: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepared(project, encoder)
    monkeypatch.setattr(prepro, "promote", promote)
    (project.out / ".staging/nli/train.partial").mkdir()
    project.rows("nli/train", ["n9\tno_\tA.\tB."])
    assert prepared(project, encoder)["nli"]["train"].rows == 1
    assert not list(project.out.rglob("*.partial"))


def test_sigkill_in_the_middle_loses_nothing_and_leaves_no_process(project, encoder, monkeypatch):
    project.rows("nli/train", [f"n{number}\tyes_\tA kite {number}.\tThe lake." for number in range(8_000)])
    parts = TextRows.parts
    monkeypatch.setattr(TextRows, "parts", lambda self, size=5_000: parts(self, size))
    settings = {"data": project.data, "encoder": encoder, "out": project.out, "num_workers": 2}
    reading, writing = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(project.tasks,), kwargs=settings)
    process.start()
    os.close(writing)
    partial = project.out / ".staging/nli/train.partial/data-00000-of-00001.arrow"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 20_000):
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert os.read(reading, 1) == b""  # the end comes when the last worker has gone
    os.close(reading)
    assert not (project.out / "nli").exists()
    prepare(project.tasks, **settings)
    assert len(SplitFile(project.out / "nli/train")) == 8_000
    assert not (project.out / ".staging").exists()


def test_a_second_prepro_into_the_same_folder_is_reported_to_wait(project, encoder):
    project.out.mkdir()
    with FileLock(project.out / ".lock"), pytest.raises(DataError, match="another mtdnn prepro is writing here"):
        prepared(project, encoder)


def test_an_encoder_folder_without_tokenizer_is_reported(project, encoder, tmp_path):
    (tmp_path / "model").mkdir()
    shutil.copy(encoder / "config.json", tmp_path / "model")
    with pytest.raises(ConfigError) as caught:
        prepared(project, tmp_path / "model")
    assert str(caught.value) == (
        f"encoder: '{tmp_path}/model' has no tokenizer, none of tokenizer.json, tokenizer.model, vocab.txt, "
        "vocab.json, …; there: config.json. "
        "Save it there: AutoTokenizer.from_pretrained(…).save_pretrained(folder)."
    )
    shutil.copy(encoder / "tokenizer_config.json", tmp_path / "model")
    with pytest.raises(ConfigError, match="no tokenizer"):
        prepared(project, tmp_path / "model")
    with pytest.raises(ConfigError, match="no tokenizer for 'no-such/encoder'"):
        prepared(project, "no-such/encoder")


def test_a_max_length_that_the_encoder_cannot_take_is_refused(project, encoder, tmp_path):
    short = save_encoder(tmp_path / "short", WORDS, max_positions=14)
    with pytest.raises(ConfigError) as caught:
        prepared(project, short)
    place = f"{project.definitions}:5: nli.max_length"
    assert str(caught.value) == f"{place}: 16 tokens; {short} takes at most 14. Set max_length to 14 or less."
    project.define(project.definitions.read_text().replace("max_length: 16", "max_length: 4"))
    with pytest.raises(ConfigError, match=r"4 tokens; .* adds 3 special tokens to a row. Set max_length to 5 or more"):
        prepared(project, encoder)


def test_equal_tokenizers_are_recognised_wherever_they_were_saved(encoder, tmp_path):
    tokenizer = load_tokenizer(encoder)
    tokenizer.cutting_at(7)([("A kite.",)])
    tokenizer.hf.save_pretrained(tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").sha256 == tokenizer.sha256
    assert load_tokenizer(save_encoder(tmp_path / "other", WORDS[::-1])).sha256 != tokenizer.sha256


def test_a_tokenizer_written_in_python_gives_what_it_gives_by_itself(tmp_path):
    plain = ByT5Tokenizer()
    plain.save_pretrained(tmp_path)
    texts = [("A kite.", "The lake."), ("A very long kite indeed.", "B.")]
    columns = load_tokenizer(tmp_path).cutting_at(20)(texts)
    wanted = [plain(*pair, truncation=True, max_length=20)["input_ids"] for pair in texts]
    assert [columns["input_ids"].row(row).tolist() for row in range(2)] == wanted
    assert columns["truncated"].tolist() == [False, True]
    assert "token_type_ids" not in columns
    second = [columns["input_ids"].row(row)[columns["segments"].row(row) == 1].tolist() for row in range(2)]
    assert [plain.decode(ids) for ids in second] == ["The lake.</s>", "B.</s>"]


def test_pairs_are_distinguished_where_the_tokenizer_does_not(project, encoder, tmp_path):
    bare = load_tokenizer(save_encoder(tmp_path / "bare", WORDS, segments=False))
    rows = [("A kite. [SEP] A", "The lake."), ("The boat sails slowly, slowly, slowly", "A kite flies, over")]
    columns, wanted = bare.cutting_at(12)(rows), load_tokenizer(encoder).cutting_at(12)(rows)
    assert "token_type_ids" not in columns and "segments" not in wanted
    assert columns["segments"].values.tolist() == wanted["token_type_ids"].values.tolist()
    assert columns["segments"].values.dtype == np.int8
    assert "segments" not in bare.cutting_at(12)([("A kite.",)])


def test_a_store_from_before_pairs_were_distinguished_is_made_anew(project, tmp_path):
    bare = save_encoder(tmp_path / "bare", WORDS, segments=False)
    made = prepared(project, bare)
    assert (made["nli"]["train"].store_format, made["like"]["train"].store_format) == (2, 1)
    replace(made["nli"]["train"], store_format=1).write(project.out / "nli" / "train")
    with pytest.raises(DataError, match=r"its format is 1, this version writes 2\. Run: mtdnn prepro"):
        open_store(project.out, project.tasks["nli"], "train", tokenizer=load_tokenizer(bare))
    assert prepared(project, bare)["nli"]["train"].store_format == 2
    assert len(open_store(project.out, project.tasks["nli"], "train", tokenizer=load_tokenizer(bare))) == 3


def test_one_file_is_prepared_with_or_without_its_labels(project, encoder, tmp_path):
    path = project.rows("nli/new", ["a\twhat\tA kite.\tThe lake.", "b\t\tA boat.\tThe lake."])
    tokenizer, task = load_tokenizer(encoder), project.tasks["nli"]
    with pytest.raises(DataError, match=r"new.tsv:1: label: 'what' is not in nli.labels"):
        prepare_rows(rows_of(path), task, tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    manifest = prepare_rows(rows_of(path), task, tokenizer, tmp_path / "new", labels="ignored")
    assert (manifest.rows, manifest.labels["unlabelled"]) == (2, 2)


@pytest.mark.parametrize("first", [0, 1])
def test_ids_and_labels_under_other_names_may_be_in_some_rows_only(project, encoder, tmp_path, first):
    """The first row decided for all: ids became numbers of lines, or the file was refused."""
    rows = [
        {"premise": "A kite.", "hypothesis": "The lake.", "key": "order-77", "verdict": "yes_"},
        {"premise": "A boat.", "hypothesis": "The lake."},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(rows[place]) + "\n" for place in (first, 1 - first)))
    task = project.tasks["nli"].model_copy(update={"columns": {"id": "key", "label": "verdict"}})
    manifest = prepare_rows(rows_of(path), task, load_tokenizer(encoder), tmp_path / "new")
    assert manifest.labels["unlabelled"] == 1
    assert "order-77" in open_prepared(tmp_path / "new").ids


@pytest.mark.parametrize("kind", ["file", "list"])
@pytest.mark.parametrize("first", [0, 1])
def test_ids_and_labels_under_our_names_may_be_in_some_rows_only(project, encoder, tmp_path, first, kind):
    """A first row without them had the renamed ones asked for, and every label was taken for missing."""
    rows = [
        {"premise": "A kite.", "hypothesis": "The lake.", "id": "order-77", "label": "yes_"},
        {"premise": "A boat.", "hypothesis": "The lake."},
    ]
    rows = [rows[first], rows[1 - first]]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = rows_of(path) if kind == "file" else table_rows(rows, place="rows")
    task = project.tasks["nli"].model_copy(update={"columns": {"id": "key", "label": "verdict"}})
    manifest = prepare_rows(source, task, load_tokenizer(encoder), tmp_path / "new")
    assert manifest.labels["unlabelled"] == 1
    assert "order-77" in open_prepared(tmp_path / "new").ids


@pytest.mark.parametrize("kind", ["file", "list"])
def test_a_label_under_our_name_where_other_rows_have_it_under_the_tasks_own_is_refused(
    project, encoder, tmp_path, kind
):
    """It was taken for missing."""
    texts = {"premise": "A kite.", "hypothesis": "The lake."}
    rows = [{**texts, "verdict": "yes_"}, {**texts, "label": "yes_"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source, place = (rows_of(path), path) if kind == "file" else (table_rows(rows, place="rows"), "rows")
    task = project.tasks["nli"].model_copy(update={"columns": {"label": "verdict"}})
    with pytest.raises(DataError, match=f"{place}:2: no column 'verdict'; present: premise, hypothesis, label. Rename"):
        prepare_rows(source, task, load_tokenizer(encoder), tmp_path / "new")


def test_rows_joined_by_their_type_are_read_as_one_part(project, monkeypatch):
    job = Job(project.tasks["nli"], "train", open_split(project.tasks["nli"], "train", project.data), "required")
    monkeypatch.setattr(type(job.task_type), "group_by", "label")
    monkeypatch.setattr(
        type(job.task_type), "join", lambda self, rows: {**rows[0], "id": "+".join(r["id"] for r in rows)}
    )
    (part,) = job.parts()
    assert [example.id for example in job.examples(part)] == ["n1+n3", "n2"]


@pytest.mark.skipif(not (SHARED / "models/all-MiniLM-L6-v2").is_dir(), reason="needs the real encoder and data")
@pytest.mark.parametrize("name", ["rte", "stsb"])
def test_real_rows_equal_a_plain_call_of_the_real_tokenizer(project, name):
    folder = SHARED / "models/all-MiniLM-L6-v2"
    labels = "labels: [entailment, not_entailment]" if name == "rte" else ""
    kind = "classification" if name == "rte" else "regression"
    project.define(f"{name}:\n  task_type: {kind}\n  inputs: [first, second]\n  max_length: 64\n  {labels}\n")
    prepare(project.tasks, data=SHARED / "data", encoder=folder, out=project.out, num_workers=2)
    for split in ("train", "dev"):
        lines = (SHARED / "data" / name / f"{split}.tsv").read_text(encoding="utf-8").split("\n")[:-1]
        ids, given, first, second = zip(*(line.split("\t") for line in lines), strict=True)
        plain = AutoTokenizer.from_pretrained(folder)
        wanted = plain(list(first), list(second), truncation=True, max_length=64)
        file = SplitFile(project.out / name / split)
        store = file.take(np.arange(len(file)))
        assert store["id"] == list(ids)
        for column in ("input_ids", "token_type_ids"):
            assert store[column].values.tolist() == [value for row in wanted[column] for value in row]
            assert store[column].lengths.tolist() == list(map(len, wanted[column]))
        index = {"entailment": 0, "not_entailment": 1}
        expected = [index[label] for label in given] if name == "rte" else np.float32(given).tolist()
        assert store["label"].tolist() == expected


def test_stores_of_span_made_with_windows_of_another_kind_are_made_anew(project, encoder):
    project.define("nli:\n  task_type: span\n  inputs: [context, question]\n  max_length: 32\n")
    for split in ("train", "dev"):
        project.rows(f"nli/{split}", ["1\t[]\tA boat lies in the lake.\tWhere is the goat?"])
    made = prepared(project, encoder)
    assert made["nli"]["train"].store_format == 5
    replace(made["nli"]["train"], store_format=1).write(project.out / "nli" / "train")
    assert prepared(project, encoder)["nli"]["train"].store_format == 5
