"""Prepared rows opened again: what is gathered, and what is refused."""

import json
import tracemalloc

import numpy as np
import pytest

from mtdnn.config.run import no_run
from mtdnn.data.arrow import DATA_FILE, SplitFile, SplitWriter, record_batch
from mtdnn.data.prepro import prepare, prepare_rows
from mtdnn.data.store import open_prepared, open_store
from mtdnn.errors import DataError
from mtdnn.rows.places import rows_of
from mtdnn.runs.length import train_part
from mtdnn.tokens.loading import load_tokenizer
from mtdnn.tokens.ragged import Ragged
from tests.reference.project import DEFINITIONS, WORDS, save_encoder


@pytest.fixture
def ready(project, encoder):
    prepare(project.tasks, data=project.data, encoder=encoder, out=project.out, num_workers=1)
    return project


def written(folder, sizes, seed=0):
    """A split of random rows in record batches of these sizes, and the same columns in memory."""
    generator = np.random.default_rng(seed)
    writer, parts = SplitWriter(folder), []
    for size in sizes:
        lengths = generator.integers(0, 9, size)
        values = generator.integers(0, 1000, lengths.sum()).astype(np.int32)
        parts.append(
            {
                "id": [f"ä{number}" * int(number % 3) for number in generator.integers(0, 99, size)],
                "label": generator.normal(size=size).astype(np.float32),
                "input_ids": Ragged.from_lengths(values, lengths),
                "token_type_ids": Ragged.from_lengths((values % 2).astype(np.int8), lengths),
                "truncated": generator.random(size) < 0.5,
            }
        )
        writer.write(record_batch(parts[-1]))
    writer.close("0" * 64)
    return parts


def test_rows_are_gathered_from_several_record_batches_in_the_order_asked(tmp_path):
    parts = written(tmp_path / "split", [5, 1, 13, 7])
    file = SplitFile(tmp_path / "split")
    ids = [row_id for part in parts for row_id in part["id"]]
    tokens = [part["input_ids"].row(row).tolist() for part in parts for row in range(len(part["id"]))]
    rows = np.random.default_rng(1).permutation(26)[:20]
    taken = file.take(rows)
    assert taken["id"] == [ids[row] for row in rows]
    assert [taken["input_ids"].row(place).tolist() for place in range(20)] == [tokens[row] for row in rows]
    assert taken["token_type_ids"].values.dtype == np.int8
    for name in ("label", "truncated"):
        np.testing.assert_array_equal(taken[name], np.concatenate([part[name] for part in parts])[rows])
    assert file.lengths().tolist() == [len(row) for row in tokens]
    assert file.lengths().dtype == np.int32


@pytest.mark.parametrize("rows", [[26], [-1], [0, 99]])
def test_a_row_that_is_not_there_is_an_error(tmp_path, rows):
    written(tmp_path / "split", [20, 6])
    with pytest.raises(IndexError):
        SplitFile(tmp_path / "split").take(np.array(rows))


def test_opening_and_taking_load_no_more_than_the_rows_taken(tmp_path):
    """200,000 rows take 11 MB; what NumPy allocates is traced, the mapped file is not part of it."""
    lengths = np.full(1000, 10)
    writer = SplitWriter(tmp_path / "split")
    for _ in range(200):
        ids = Ragged.from_lengths(np.zeros(10_000, np.int32), lengths)
        writer.write(record_batch({"id": ["x"] * 1000, "label": np.zeros(1000), "input_ids": ids}))
    writer.close("0" * 64)
    tracemalloc.start()
    file = SplitFile(tmp_path / "split")
    file.take(np.arange(0, 200_000, 5000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(file) == 200_000
    assert peak < 500_000


def test_splits_joined_are_one_store_in_their_order(ready, encoder):
    task = ready.tasks["nli"]
    store = open_store(ready.out, task, ("train", "dev"), tokenizer=load_tokenizer(encoder))
    assert store.ids == ["n1", "n2", "n3", "d1", "d2"]
    rows = np.array([4, 0, 3, 1, 4])
    taken = store.take(rows)
    assert taken["id"] == ["d2", "n1", "d1", "n2", "d2"]
    assert taken["label"].tolist() == [-100, 0, 1, 1, -100]
    assert taken["input_ids"].lengths.tolist() == store.lengths[rows].tolist()
    part = store.select(np.array([3, 1]))
    assert (part.ids, len(part), part.take(np.array([0]))["id"]) == (["d1", "n2"], 2, ["d1"])
    assert part.select(np.array([1])).ids == ["n2"]


def test_max_rows_takes_the_same_rows_every_time_and_nests(project, encoder):
    project.rows("nli/train", [f"n{number}\tyes_\tA.\tB." for number in range(40)])
    chosen, run = {}, no_run()
    for limit in (5, 20, 400):
        project.define(DEFINITIONS.split("like:")[0] + f"  max_rows: {limit}\n")
        prepare(project.tasks, data=project.data, encoder=encoder, out=project.out, num_workers=1)
        task = project.tasks["nli"]
        chosen[limit] = train_part(open_store(project.out, task, "train"), run, task).ids
    assert [len(ids) for ids in chosen.values()] == [5, 20, 40]
    assert set(chosen[5]) < set(chosen[20]) < set(chosen[400])
    assert open_store(project.out, project.tasks["nli"], "train").ids == chosen[400]


def refused(ready, tokenizer, split="train"):
    with pytest.raises(DataError) as caught:
        open_store(ready.out, ready.tasks["nli"], split, tokenizer=tokenizer)
    return str(caught.value)


def test_a_store_of_another_tokenizer_is_refused_with_the_command_that_mends_it(ready, encoder, tmp_path):
    other = save_encoder(tmp_path / "other", WORDS[::-1])
    assert refused(ready, load_tokenizer(other)) == (
        f"{ready.out}/nli/train: the prepared rows do not match: it was made with the tokenizer of {encoder}, "
        f"which is not that of {other}. Run: mtdnn prepro {ready.definitions} --data {ready.data} --encoder {other} "
        f"--out {ready.out} --tasks nli"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[yes_, no_]", "[no_, yes_]"), 'its labels was ["yes_", "no_"], now ["no_", "yes_"]'),
        (("max_length: 16", "max_length: 15"), "its max_length was 16, now 15"),
        (("[premise, hypothesis]", "[hypothesis, premise]"), "its inputs was"),
    ],
)
def test_a_store_of_another_task_block_is_refused_naming_the_key(ready, encoder, change, message):
    ready.define(ready.definitions.read_text().replace(*change))
    reported = refused(ready, load_tokenizer(encoder))
    assert message in reported
    assert f"Run: mtdnn prepro {ready.definitions} --data {ready.data}" in reported


def test_missing_and_damaged_splits_are_reported(ready, encoder):
    tokenizer = load_tokenizer(encoder)
    assert "nli/test: this split is not prepared. Run: mtdnn prepro" in refused(ready, tokenizer, "test")
    path = ready.out / "nli/train/data-00000-of-00001.arrow"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert f"damaged: {len(content) - 100} bytes; {len(content)} bytes were written" in refused(ready, tokenizer)
    path.unlink()
    assert "damaged: missing" in refused(ready, tokenizer)
    (ready.out / "nli/train/manifest.json").write_text("{")
    assert "manifest.json: not JSON" in refused(ready, tokenizer)


@pytest.mark.parametrize(("key", "value"), [("data", [1]), ("path", 3), ("in_memory", "yes"), ("columns", ["text"])])
def test_a_manifest_whose_source_has_another_type_is_refused(ready, encoder, key, value):
    path = ready.out / "nli/train/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["source"][key] = value
    path.write_text(json.dumps(manifest))
    assert f"{path}: source.{key}" in refused(ready, load_tokenizer(encoder))


def test_a_single_prepared_file_is_opened_by_its_folder(ready, encoder, tmp_path):
    path = ready.rows("nli/new", ["a\tyes_\tA kite.\tThe lake."])
    prepare_rows(rows_of(path), ready.tasks["nli"], load_tokenizer(encoder), tmp_path / "new")
    assert open_prepared(tmp_path / "new").ids == ["a"]
    with pytest.raises(DataError, match="no prepared rows"):
        open_prepared(tmp_path / "old")


def test_a_flipped_bit_is_found_by_whoever_opens_the_store_and_mended_by_prepro(ready, encoder):
    """Any one of them: most change a value and nothing else."""
    tokenizer = load_tokenizer(encoder)
    path = ready.out / "nli" / "train" / DATA_FILE
    whole = path.read_bytes()
    for position in range(0, len(whole), 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert f"{path}: damaged: its content differs from what was written. Run: mtdnn prepro" in refused(
            ready, tokenizer
        )
    prepare(ready.tasks, data=ready.data, encoder=encoder, out=ready.out, num_workers=1)
    assert path.read_bytes() == whole
    assert open_store(ready.out, ready.tasks["nli"], "train", tokenizer=tokenizer).ids == ["n1", "n2", "n3"]
