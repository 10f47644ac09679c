"""Rows encoded by several calls and merged: the same store as one process makes, and what is refused."""

import json
import multiprocessing
import re
import shutil
import time
from pathlib import Path

import pytest

from mtdnn.cli.main import main
from mtdnn.data.arrow import columns_of, record_batch
from mtdnn.data.encode import Job, encode_part
from mtdnn.data.part_files import read_part, write_part
from mtdnn.data.prepro import prepare
from mtdnn.data.shards import Shard, merge_shards, prepare_shard
from mtdnn.errors import ConfigError, DataError
from mtdnn.rows.places import open_split
from mtdnn.rows.text import TextRows
from mtdnn.tokens.loading import load_tokenizer
from tests.reference.project import save_encoder

PART_BYTES = 700


@pytest.fixture
def rows(project, monkeypatch):
    """Rows of several parts; a split of one part; a last row that has tokens cut."""
    project.rows("nli/train", [f"n{number}\tyes_\tA kite {number}.\tThe lake." for number in range(300)])
    project.rows("like/train", [f"l{number}\t{number / 7}\t{'A boat. ' * (number % 9 + 1)}" for number in range(80)])
    parts = TextRows.parts
    monkeypatch.setattr(TextRows, "parts", lambda self, size=PART_BYTES: parts(self, size))
    return project


def settings_of(project, encoder, out=None):
    return {"data": project.data, "encoder": encoder, "out": out or project.out}


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def encode_shards(project, encoder, numbers, *, of=3, **settings):
    given = settings_of(project, encoder) | settings
    return [prepare_shard(project.tasks, shard=Shard(number, of), num_workers=1, **given) for number in numbers]


def lines_of(call, *words, **settings):
    with pytest.raises(DataError) as caught:
        call(*words, **settings)
    return list(caught.value.lines)


def test_the_merged_store_is_that_of_a_single_process_to_the_last_byte(rows, encoder, tmp_path):
    prepare(rows.tasks, num_workers=1, **settings_of(rows, encoder, tmp_path / "one"))
    made = encode_shards(rows, encoder, (3, 1, 2))
    assert sum(own for own, _ in made) > 12 and min(own for own, _ in made) >= 4
    manifests = merge_shards(rows.tasks, **settings_of(rows, encoder))
    assert (manifests["nli"]["train"].rows, manifests["like"]["train"].rows) == (300, 80)
    assert files_of(rows.out) == files_of(tmp_path / "one")
    assert not (rows.out / ".parts").exists()


def test_rows_that_several_tasks_share_are_merged_as_well(rows, encoder, tmp_path):
    shared = "rows: {file: messages, columns: {label: "
    rows.define(f"""\
stars:
  task_type: regression
  max_length: 12
  {shared}stars}}}}
intent:
  task_type: classification
  labels: [ask, report]
  max_length: 12
  {shared}intent}}}}
""")
    for split in ("train", "dev"):
        lines = [
            json.dumps({"id": f"m{number}", "text": "A red kite.", "stars": number % 5, "intent": "ask"})
            for number in range(60)
        ]
        (rows.data / "messages").mkdir(exist_ok=True)
        (rows.data / f"messages/{split}.jsonl").write_text("\n".join(lines) + "\n")
    prepare(rows.tasks, num_workers=1, **settings_of(rows, encoder, tmp_path / "one"))
    encode_shards(rows, encoder, (2, 1), of=2)
    manifests = merge_shards(rows.tasks, **settings_of(rows, encoder))
    assert manifests["stars"]["train"].rows == manifests["intent"]["dev"].rows == 60
    assert files_of(rows.out) == files_of(tmp_path / "one")


@pytest.mark.parametrize("num_parts", [0, 1, 2, 7, 100])
def test_every_part_is_in_one_shard(num_parts):
    shares = [[*Shard(number, 7).of_parts(num_parts)] for number in range(1, 8)]
    assert [number for share in shares for number in share] == [*range(num_parts)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_killed_shard_resumes_after_its_last_part(rows, encoder, monkeypatch):
    def killed_at_the_fourth(job, part, tokenizer):
        encoded.append(part)
        if len(encoded) == 4:
            raise KeyboardInterrupt
        return encode_part(job, part, tokenizer)

    encoded = []
    monkeypatch.setattr("mtdnn.data.shards.encode_part", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        encode_shards(rows, encoder, (1,), of=1)
    monkeypatch.undo()
    monkeypatch.setattr(TextRows, "parts", lambda self, size=PART_BYTES, parts=TextRows.parts: parts(self, size))
    ((own, now),) = encode_shards(rows, encoder, (1,), of=1)
    assert now == own - 3
    assert encode_shards(rows, encoder, (1,), of=1) == [(own, 0)]


def test_sigkill_leaves_only_whole_parts(rows, encoder, tmp_path):
    rows.rows("nli/train", [f"n{number}\tyes_\tA kite {number}.\tThe lake." for number in range(1_500)])
    given = {"shard": Shard(1, 1), "num_workers": 1, **settings_of(rows, encoder)}
    process = multiprocessing.get_context("fork").Process(target=prepare_shard, args=(rows.tasks,), kwargs=given)
    process.start()
    until = time.monotonic() + 60
    while len(list((rows.out / ".parts").rglob("*.arrow"))) < 8:
        assert time.monotonic() < until and process.is_alive()
        time.sleep(0.002)
    process.kill()
    process.join()
    own, now = prepare_shard(rows.tasks, **given)
    assert 0 < now <= own - 8
    merge_shards(rows.tasks, **settings_of(rows, encoder))
    prepare(rows.tasks, num_workers=1, **settings_of(rows, encoder, tmp_path / "one"))
    assert files_of(rows.out) == files_of(tmp_path / "one")


def test_shards_that_are_missing_are_named(rows, encoder):
    command = "Run the same command with --shard {0} in place of --merge."
    assert lines_of(merge_shards, rows.tasks, **settings_of(rows, encoder)) == [
        f"{rows.out}/.parts: no shard has encoded any part. "
        "First run the same command with --shard 1/n, …, --shard n/n in place of --merge."
    ]
    encode_shards(rows, encoder, (2,))
    lines = lines_of(merge_shards, rows.tasks, **settings_of(rows, encoder))
    assert [line.partition("parts of ")[2] for line in lines] == [
        f"shard {shard} are missing. {command.format(shard)}" for shard in ("1/3", "3/3")
    ]
    encode_shards(rows, encoder, (1, 3))
    next((rows.out / ".parts").rglob("000001.arrow")).unlink()
    (line,) = lines_of(merge_shards, rows.tasks, **settings_of(rows, encoder))
    assert line.startswith(f"{rows.out}/.parts: 1 of the ")
    assert not (rows.out / "nli").exists()


def test_parts_that_no_shard_has_counted_are_reported_in_words(rows, encoder):
    """As `--launcher ray` leaves them when it is killed; FileNotFoundError."""
    encode_shards(rows, encoder, (2,))
    (rows.out / ".parts" / "shards.json").unlink()
    (line,) = lines_of(merge_shards, rows.tasks, **settings_of(rows, encoder))
    assert "parts are missing. Run the command that has encoded the others again: with --launcher ray, or" in line


def test_shards_of_other_settings_are_refused(rows, encoder, tmp_path):
    other = save_encoder(tmp_path / "other", ["A", "kite", "lake"])
    encode_shards(rows, encoder, (1, 2))
    encode_shards(rows, other, (3,))
    lines = lines_of(merge_shards, rows.tasks, **settings_of(rows, encoder))
    there = "there are encoded parts of other rows or settings: it was made with the tokenizer of"
    assert any(line.startswith(f"like/train: {there} {other}, which is not that of {encoder}") for line in lines)
    assert "of shard 3/3 are missing" in lines[-1]
    assert not (rows.out / "nli").exists()


def test_shards_of_a_file_that_has_changed_are_refused(rows, encoder):
    encode_shards(rows, encoder, (1, 2, 3))
    rows.rows("nli/dev", ["d1\tyes_\tA boat.\tThe lake."])
    first, second = lines_of(merge_shards, rows.tasks, **settings_of(rows, encoder))
    assert first == (
        f"nli/dev: there are encoded parts of other rows or settings: its rows in {rows.data}/nli/dev.tsv have "
        f"changed. Give the arguments of the shards, or remove {rows.out}/.parts and encode them all again."
    )
    assert re.search(r"1 of the \d+ parts of shard \d/3 are missing", second)
    assert sum(now for _, now in encode_shards(rows, encoder, (1, 2, 3))) == 1  # the others are as they were


def test_shards_may_have_folders_of_their_own_and_another_path_to_the_rows(rows, encoder, tmp_path):
    prepare(rows.tasks, num_workers=1, **settings_of(rows, encoder, tmp_path / "one"))
    copied = shutil.copytree(rows.data, tmp_path / "elsewhere")
    for number in (1, 2):
        encode_shards(rows, encoder, (number,), of=2, out=tmp_path / f"out{number}", data=copied)
        shutil.copytree(tmp_path / f"out{number}/.parts", rows.out / ".parts", dirs_exist_ok=True)
    merge_shards(rows.tasks, **settings_of(rows, encoder))
    assert files_of(rows.out) == files_of(tmp_path / "one")


def test_errors_in_rows_are_reported_by_their_shard_and_twins_by_the_merge(rows, encoder):
    lines = [f"n{number}\tyes_\tA kite {number}.\tThe lake." for number in range(300)]
    rows.rows("nli/train", [*lines[:250], "n250\tmaybe\tA.\tB.", *lines[251:]])
    encode_shards(rows, encoder, (1, 3))
    for _ in range(2):  # a second call reports what the first one has found
        (line,) = lines_of(encode_shards, rows, encoder, (2,))
        assert line.startswith(f"{rows.data}/nli/train.tsv:251: label: 'maybe' is not in nli.labels")
    rows.rows("nli/train", [*lines, lines[7]])
    encode_shards(rows, encoder, (1, 2, 3))
    (line,) = lines_of(merge_shards, rows.tasks, **settings_of(rows, encoder))
    place = f"{rows.data}/nli/train.tsv"
    assert line == f"{place}:301: id: 'n7' is also the id of {place}:8. Rename one of them."
    assert not (rows.out / "nli").exists()


def test_a_damaged_part_is_reported(rows, encoder):
    encode_shards(rows, encoder, (1,), of=1)
    path = next((rows.out / ".parts").rglob("000001.arrow"))
    path.write_bytes(path.read_bytes()[:100])
    (line,) = lines_of(merge_shards, rows.tasks, **settings_of(rows, encoder))
    assert line.startswith(f"{path}: damaged: ") and line.endswith("Remove this file, and encode the part again.")


def test_splits_that_are_prepared_already_have_no_shards(rows, encoder):
    encode_shards(rows, encoder, (1,), of=1)
    merge_shards(rows.tasks, **settings_of(rows, encoder))
    before = files_of(rows.out)
    assert encode_shards(rows, encoder, (1, 2)) == [(0, 0), (0, 0)]
    merge_shards(rows.tasks, **settings_of(rows, encoder))
    assert files_of(rows.out) == before


def test_merging_some_tasks_keeps_the_parts_of_the_others(rows, encoder):
    for task in ("nli", "like"):
        encode_shards(rows, encoder, (1,), of=1, only=[task])
    merge_shards(rows.tasks, only=["nli"], **settings_of(rows, encoder))
    assert {path.name for path in (rows.out / ".parts").iterdir()} == {"like", "shards.json"}
    merge_shards(rows.tasks, only=["like"], **settings_of(rows, encoder))
    assert {path.name for path in rows.out.iterdir()} == {"nli", "like", ".lock"}


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/2/3"])
def test_a_shard_is_one_of_n(text):
    with pytest.raises(ConfigError) as caught:
        Shard.parse(text)
    assert str(caught.value) == (
        f"--shard: '{text}' is not a shard; expected i/n with i from 1 to n, as in 3/8. A job array may count from 1."
    )
    assert Shard.parse("3/8") == Shard(3, 8)


def test_a_part_is_read_as_it_was_written(rows, encoder, tmp_path):
    task = rows.tasks["nli"]
    job = Job(task, "train", open_split(task, "train", rows.data), "required")
    part = encode_part(job, job.parts()[1], load_tokenizer(encoder))
    write_part(tmp_path / "part", part)
    found = read_part(tmp_path / "part")
    assert found.batch == part.batch and found.id_hashes.tolist() == part.id_hashes.tolist()
    assert record_batch(columns_of(part.batch)) == part.batch
    rows.rows("nli/train", ["n1\tmaybe\tA.\tB."])
    faulty = encode_part(job, job.parts()[0], load_tokenizer(encoder))
    write_part(tmp_path / "faulty", faulty)
    found = read_part(tmp_path / "faulty")
    assert (found.batch, found.faults, found.num_faults) == (None, faulty.faults, 1)


def test_the_commands_of_shards_and_of_merging(rows, encoder, capsys):
    words = ["prepro", str(rows.definitions), "--data", str(rows.data), "--encoder", str(encoder)]
    words += ["--out", str(rows.out), "-q"]
    for number in (1, 2):
        assert main([*words, "--shard", f"{number}/2", "--workers", "1"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(rf"shard 1/2: \d+ parts encoded, 0 were there: {rows.out}", first)
    assert main([*words, "--merge"]) == 0
    assert capsys.readouterr().out == f"prepared rows: {rows.out}\n"
    assert (rows.out / "nli/train/manifest.json").is_file()
    assert main([*words, "--merge", "--shard", "1/2"]) == 2
    assert "--merge: merges the shards of other calls. Give --shard i/n to each call" in capsys.readouterr().err
    assert main([*words, "--shard", "3/2"]) == 2
    assert "--shard: '3/2' is not a shard" in capsys.readouterr().err
    assert Path(rows.out / "like").is_dir()
