"""Archives for the leaderboards: names, headers, words, numbers and order, field by field as their rules have them."""

import json
import zipfile
from dataclasses import replace

import pytest

from mtdnn.cli.main import main
from mtdnn.errors import DataError
from mtdnn.runs import submission
from mtdnn.runs.submission import GLUE, SUPERGLUE, archive_faults, content, numbers_of, write_archive
from mtdnn.runs.submit import task_for

FILES = {file.name: file for file in (*GLUE, *SUPERGLUE)}
RTE_JSON = next(file for file in SUPERGLUE if file.name == "RTE.jsonl")


def records(*predictions):
    """In another order than that of the rows."""
    found = [{"id": f"test-{place}", "prediction": each} for place, each in enumerate(predictions)]
    return found[::-1]


def small(monkeypatch, benchmark, **rows):
    """A benchmark of these files alone, with so many rows; `_` stands for `-` in a name."""
    suffix = ".tsv" if benchmark == "glue" else ".jsonl"
    wanted = {f"{name.replace('_', '-')}{suffix}": count for name, count in rows.items()}
    every = submission.BENCHMARKS[benchmark]
    kept = tuple(replace(file, rows=wanted[file.name]) for file in every if file.name in wanted)
    monkeypatch.setitem(submission.BENCHMARKS, benchmark, kept)
    monkeypatch.setattr(submission, benchmark.upper(), kept)
    return kept


def archive(path, **texts):
    write_archive(path, texts)
    return path


def reported(path):
    return [str(each) for each in archive_faults(path)]


def test_the_files_are_those_of_the_two_benchmarks():
    """Names as in the sample submissions; rows are those of the official test splits."""
    assert [file.name for file in GLUE] == [
        "CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QQP.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv", "RTE.tsv",
        "WNLI.tsv", "AX.tsv",
    ]  # fmt: skip
    assert [file.name for file in SUPERGLUE] == [
        "BoolQ.jsonl", "CB.jsonl", "COPA.jsonl", "MultiRC.jsonl", "ReCoRD.jsonl", "RTE.jsonl", "WiC.jsonl", "WSC.jsonl",
        "AX-b.jsonl", "AX-g.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "predictions", "expected"),
    [
        ("CoLA.tsv", ["1", "0"], "index\tprediction\n0\t1\n1\t0\n"),
        ("MNLI-m.tsv", ["neutral", "contradiction"], "index\tprediction\n0\tneutral\n1\tcontradiction\n"),
        ("RTE.tsv", ["not_entailment"], "index\tprediction\n0\tnot_entailment\n"),
        ("STS-B.tsv", [3.14159, -0.2, 5.4], "index\tprediction\n0\t3.142\n1\t0.000\n2\t5.000\n"),
        ("BoolQ.jsonl", ["yes", "no"], '{"idx": 0, "label": "true"}\n{"idx": 1, "label": "false"}\n'),
        ("WSC.jsonl", ["yes"], '{"idx": 0, "label": "True"}\n'),
        ("WiC.jsonl", ["no"], '{"idx": 0, "label": "false"}\n'),
        ("COPA.jsonl", [1, 0], '{"idx": 0, "label": 1}\n{"idx": 1, "label": 0}\n'),
        ("CB.jsonl", ["neutral"], '{"idx": 0, "label": "neutral"}\n'),
        ("AX-b.jsonl", ["entailment"], '{"idx": 0, "label": "entailment"}\n'),
    ],
)
def test_a_file_has_the_benchmarks_words_and_order(name, predictions, expected):
    assert content(FILES[name], records(*predictions)) == expected


def test_answers_of_multirc_are_nested_in_paragraphs_and_questions():
    rows = [("test-0-0-0", "yes"), ("test-0-0-1", "no"), ("test-0-1-2", "no"), ("test-1-2-3", "yes")]
    text = content(FILES["MultiRC.jsonl"], [{"id": id, "prediction": each} for id, each in rows])
    first, second = map(json.loads, text.splitlines())
    assert first == {
        "idx": 0,
        "passage": {
            "questions": [
                {"idx": 0, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]},
                {"idx": 1, "answers": [{"idx": 2, "label": 0}]},
            ]
        },
    }
    assert second["passage"]["questions"] == [{"idx": 2, "answers": [{"idx": 3, "label": 1}]}]


def test_an_entity_of_record_is_written_with_the_number_of_its_query():
    text = content(FILES["ReCoRD.jsonl"], [{"id": "test-4-17", "prediction": "Zoë"}])
    assert text == '{"idx": 17, "label": "Zoë"}\n'


@pytest.mark.parametrize(
    ("row_id", "numbers"), [("test-12", (12,)), ("test-3-4-5", (3, 4, 5)), ("7", (7,)), ("a", ()), ("x1", ())]
)
def test_numbers_end_an_id(row_id, numbers):
    assert numbers_of(row_id) == numbers


def test_other_labels_ids_without_number_and_duplicates_are_refused_together():
    wrong = [
        {"id": "test-0", "prediction": "unacceptable"},
        {"id": "abc", "prediction": "1"},
        {"id": "test-1", "prediction": "1"},
        {"id": "other-1", "prediction": "1"},
    ]
    with pytest.raises(DataError) as caught:
        content(FILES["CoLA.tsv"], wrong)
    assert [str(each).split(". ")[0] for each in caught.value.faults] == [
        "CoLA.tsv: row test-0: unknown label 'unacceptable'; known: 0, 1",
        "CoLA.tsv: row abc: no number of a row",
        "CoLA.tsv: row other-1: a second row of this number",
    ]


def test_a_sound_archive_has_nothing_to_report_and_is_the_same_bytes_every_time(tmp_path, monkeypatch, capsys):
    small(monkeypatch, "glue", RTE=2, STS_B=1)
    texts = {"RTE.tsv": content(FILES["RTE.tsv"], records("entailment", "not_entailment"))}
    texts["STS-B.tsv"] = content(FILES["STS-B.tsv"], records(1.5))
    first, second = archive(tmp_path / "1.zip", **texts), archive(tmp_path / "2.zip", **texts)
    assert archive_faults(first) == [] and first.read_bytes() == second.read_bytes()
    assert main(["submit", "--check", str(first)]) == 0
    assert "as the benchmark wants it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("index\tlabel\n0\tentailment\n", "line 1: 'index\\tlabel'. Expected the header"),
        ("", "line 1: ''. Expected the header"),
        ("index\tprediction\n0\tentailment\n", "RTE.tsv: 1 rows. Expected 2"),
        ("index\tprediction\n1\tentailment\n0\tentailment\n", "rows in another order"),
        ("index\tprediction\n0\tentailment\n0\tentailment\n", "row 0 occurs twice"),
        ("index\tprediction\n0\tentailment\n2\tentailment\n", "row 1 is missing"),
        ("index\tprediction\n0\tneutral\n1\tentailment\n", "RTE.tsv:2: prediction: unknown label 'neutral'"),
        ("index\tprediction\n0 entailment\n1\tentailment\n", "RTE.tsv:2: 1 columns; expected 2"),
        ("index\tprediction\nx\tentailment\n1\tentailment\n", "RTE.tsv:2: index 'x' is no row's number"),
        ("index\tprediction\n\n1\tentailment\n", "RTE.tsv:2: 1 columns"),
        ("index\tprediction\n0\tneutral\n1\tentailment\n", "RTE.tsv: 1 rows without an error. Expected 2"),
    ],
)
def test_each_deviation_of_a_table_is_named(tmp_path, monkeypatch, text, found):
    small(monkeypatch, "glue", RTE=2)
    assert any(found in line for line in reported(archive(tmp_path / "a.zip", **{"RTE.tsv": text})))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"idx": 0, "label": "true"}', ""),
        ('{"idx": 0, "label": true}', "label True is none of this file's"),
        ('{"idx": 0, "label": "yes"}', "label 'yes' is none of this file's"),
        ('{"idx": "0", "label": "true"}', "idx '0' is no row's number"),
        ('{"idx": true, "label": "true"}', "idx True is no row's number"),
        ('{"label": "true"}', "idx None is no row's number"),
        ("[]", "no JSON object"),
        ("{", "WiC.jsonl:1"),
    ],
)
def test_each_deviation_of_a_json_file_is_named(tmp_path, monkeypatch, line, found):
    small(monkeypatch, "superglue", WiC=1)
    lines = reported(archive(tmp_path / "a.zip", **{"WiC.jsonl": f"{line}\n"}))
    assert lines == [] if not found else any(found in each for each in lines)


def test_a_nested_file_counts_its_answers(tmp_path, monkeypatch):
    small(monkeypatch, "superglue", MultiRC=2)
    answers = [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]
    line = {"idx": 0, "passage": {"questions": [{"idx": 0, "answers": answers}]}}
    assert reported(archive(tmp_path / "a.zip", **{"MultiRC.jsonl": json.dumps(line)})) == []
    answers.pop()
    assert "1 rows" in reported(archive(tmp_path / "b.zip", **{"MultiRC.jsonl": json.dumps(line)}))[0]
    assert "MultiRC.jsonl:1" in reported(archive(tmp_path / "c.zip", **{"MultiRC.jsonl": '{"idx": 0}'}))[0]
    line["passage"]["questions"][0]["answers"] = ["x"]
    assert "MultiRC.jsonl:1" in reported(archive(tmp_path / "d.zip", **{"MultiRC.jsonl": json.dumps(line)}))[0]


def test_files_that_are_missing_strange_twice_or_in_a_folder_are_named(tmp_path, monkeypatch):
    small(monkeypatch, "glue", RTE=1, WNLI=1)
    good = "index\tprediction\n0\tentailment\n"
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        for name in ("sub/WNLI.tsv", "notes.txt", "RTE.tsv", "RTE.tsv"):
            file.writestr(name, good)
    lines = reported(path)
    assert any("WNLI.tsv: missing" in line for line in lines)
    assert any("sub/WNLI.tsv: not a file of this benchmark. Put the files at the top" in line for line in lines)
    assert any("notes.txt: not a file of this benchmark. Remove it." in line for line in lines)
    assert sum("RTE.tsv: in the archive twice" in line for line in lines) == 2


def test_what_is_no_archive_is_reported_without_a_traceback(tmp_path, capsys):
    damaged = archive(tmp_path / "a.zip", **{"RTE.tsv": "index\tprediction\n" * 100})
    data = bytearray(damaged.read_bytes())
    data[40] ^= 0xFF
    damaged.write_bytes(data)
    for path in (tmp_path / "none.zip", tmp_path, damaged):
        assert main(["submit", "--check", str(path)]) == 2
        assert "no readable zip archive" in capsys.readouterr().err
    squeezed = tmp_path / "c.zip"
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("RTE.tsv", "index\tprediction\n" * 100)
    data = bytearray(squeezed.read_bytes())
    data[45:60] = bytes(15)
    squeezed.write_bytes(data)
    assert any("no readable zip archive" in line for line in reported(squeezed))
    latin = archive(tmp_path / "b.zip", **{"RTE.tsv": "index\tprediction\n"})
    with zipfile.ZipFile(latin, "w") as file:
        file.writestr("RTE.tsv", "é".encode("latin-1"))
    assert any("RTE.tsv: not UTF-8" in line for line in reported(latin))


def named(file, tasks):
    """The name of the task that answers a file."""
    return task_for(file, tasks).task


@pytest.mark.parametrize("tasks", [["rte", "superglue_rte"], ["superglue_rte", "rte"]])
def test_superglues_rte_is_not_glues_where_both_are_there(tasks):
    """The first of them answered it, though GLUE's head is another and its test file, too."""
    assert task_for(RTE_JSON, tasks) == ("superglue_rte", 0) and task_for(RTE_JSON, ["rte"]) == ("rte", 1)


def test_ids_of_multirc_without_three_numbers_are_refused_in_the_list():
    with pytest.raises(DataError, match=r"MultiRC.jsonl: row test-7: no numbers of a paragraph, a question and an"):
        content(FILES["MultiRC.jsonl"], [{"id": "test-7", "prediction": "1"}])


def test_a_task_is_found_by_the_benchmarks_own_name_too():
    assert named(FILES["SST-2.tsv"], ["rte", "SST-2"]) == "SST-2"
    assert named(FILES["STS-B.tsv"], ["stsb"]) == "stsb"
    assert named(FILES["MNLI-m.tsv"], ["mnli"]) == "mnli"
    assert named(RTE_JSON, ["rte"]) == "rte" and named(RTE_JSON, ["superglue_rte"]) == "superglue_rte"
    assert task_for(FILES["CoLA.tsv"], ["rte"]) is None


def test_pronouns_answer_wnli_and_wsc_where_no_other_task_does():
    """Predictions of `coreference` with labels are words of the benchmarks."""
    assert named(FILES["WNLI.tsv"], ["rte", "wnli_pronoun"]) == "wnli_pronoun"
    assert named(FILES["WNLI.tsv"], ["wnli_pronoun", "wnli"]) == "wnli"
    assert named(FILES["WSC.jsonl"], ["wsc-pronoun"]) == "wsc-pronoun"
    assert task_for(FILES["WSC.jsonl"], ["wnli_pronoun", "pdp"]) is None
    assert content(FILES["WNLI.tsv"], records("1", "0")) == "index\tprediction\n0\t1\n1\t0\n"
    assert content(FILES["WSC.jsonl"], records("no")) == '{"idx": 0, "label": "False"}\n'
