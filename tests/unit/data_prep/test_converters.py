"""Each converter reads its source as distributed, and counts what it drops. All sentences are made up."""

import json
from pathlib import Path

import pytest

from data_prep import anli, cs224n, glue, multinli, scitail, snli
from data_prep.rows_out import Report
from mtdnn.errors import DataError


def put(path: Path, *lines: str, start: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(start + "".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def tabs(*values: str) -> str:
    return "\t".join(values)


def got(folder: Path, task: str, split: str) -> list[list[str]]:
    text = (folder / task / f"{split}.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def report_of(reports: list[Report], split: str) -> Report:
    return next(report for report in reports if report.path.name == f"{split}.tsv")


# -- GLUE -----------------------------------------------------------------------------------------------------------


def test_cola_has_no_header_in_train_and_one_in_test(tmp_path):
    put(
        tmp_path / "in/CoLA/train.tsv",
        tabs("ab01", "1", "", "The hens sleep."),
        tabs("ab01", "0", "*", "Hens the sleep."),
    )
    put(tmp_path / "in/CoLA/test.tsv", tabs("index", "sentence"), tabs("0", "Cows sleep."))
    glue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "cola", "train") == [
        ["train-0-ab01", "1", "The hens sleep."],
        ["train-1-ab01", "0", "Hens the sleep."],
    ]
    assert got(tmp_path / "out", "cola", "test") == [["test-0", "", "Cows sleep."]]


def test_sst2_label_comes_last_in_train_and_is_missing_in_test(tmp_path):
    put(tmp_path / "in/SST-2/train.tsv", tabs("sentence", "label"), tabs('a "fine" day out ', "1"))
    put(tmp_path / "in/SST-2/test.tsv", tabs("index", "sentence"), tabs("0", "dull"))
    glue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "sst2", "train") == [["train-0", "1", 'a "fine" day out']]
    assert got(tmp_path / "out", "sst2", "test") == [["test-0", "", "dull"]]


def test_qqp_rows_broken_by_a_line_break_are_dropped_and_named(tmp_path):
    put(
        tmp_path / "in/QQP/train.tsv",
        tabs("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        tabs("7", "1", "2", "Where is the oar?", "Where is an oar?", "1"),
        tabs("8", "3", "4", "Is this"),
        tabs("question broken?", "No?", "0"),
        tabs("9", "5", "6", "Who rows?", "", "0"),
        tabs("10", "5", "6", "Who rows?", "Who swims?", "so"),
    )
    reports = glue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "qqp", "train") == [["train-0", "1", "Where is the oar?", "Where is an oar?"]]
    assert reports[0].written == 1
    assert dict(reports[0].dropped) == {"too few or too many columns": 2, "empty text": 1, "label is none of 0, 1": 1}
    assert str(reports[0]).endswith("2 dropped, too few or too many columns (first: train-1, train-2)")


def test_stsb_keeps_its_scores_and_drops_what_is_no_number(tmp_path):
    header = ("index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2")
    meta = ("0", "forum", "f", "2031", "1", "none", "none")
    rows = [tabs(*meta, "A cat naps.", "A cat sleeps.", score) for score in ("4.500", "high", "nan")]
    put(tmp_path / "in/STS-B/dev.tsv", tabs(*header, "score"), *rows)
    put(tmp_path / "in/STS-B/test.tsv", tabs(*header), tabs(*meta, "A cat naps.", "A dog barks."))
    reports = glue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "stsb", "dev") == [["dev-0", "4.500", "A cat naps.", "A cat sleeps."]]
    assert report_of(reports, "dev").dropped["label is no number"] == 2
    assert got(tmp_path / "out", "stsb", "test") == [["test-0", "", "A cat naps.", "A dog barks."]]


def test_mnli_has_matched_and_mismatched_splits_and_other_columns_in_each(tmp_path):
    start = ("index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse")
    middle = ("sentence1_parse", "sentence2_parse", "sentence1", "sentence2")
    meta = ("0", "1", "1n", "letters", "( )", "( )", "(S)", "(S)", "It rains.", "It is wet.")
    annotators = tuple(f"label{n}" for n in range(1, 6))
    put(
        tmp_path / "in/MNLI/train.tsv", tabs(*start, *middle, "label1", "gold_label"), tabs(*meta, "neutral", "neutral")
    )
    for split in ("dev_matched", "dev_mismatched"):
        five = ("entailment",) * 5
        rows = [tabs(*meta, *five, "entailment"), tabs(*meta, *five, "-")]
        put(tmp_path / f"in/MNLI/{split}.tsv", tabs(*start, *middle, *annotators, "gold_label"), *rows)
    put(tmp_path / "in/MNLI/test_matched.tsv", tabs(*start, *middle), tabs(*meta))
    reports = glue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "mnli", "train") == [["train-0", "neutral", "It rains.", "It is wet."]]
    assert got(tmp_path / "out", "mnli", "dev_mismatched") == [
        ["dev_mismatched-0", "entailment", "It rains.", "It is wet."]
    ]
    assert got(tmp_path / "out", "mnli", "test_matched") == [["test_matched-0", "", "It rains.", "It is wet."]]
    assert dict(report_of(reports, "dev_matched").dropped) == {"no gold label (-)": 1}


@pytest.mark.parametrize(
    ("folder", "task", "columns", "label"),
    [
        ("QNLI", "qnli", ("question", "sentence"), "not_entailment"),
        ("RTE", "rte", ("sentence1", "sentence2"), "entailment"),
        ("WNLI", "wnli", ("sentence1", "sentence2"), "1"),
    ],
)
def test_indexed_pair_tasks(tmp_path, folder, task, columns, label):
    put(
        tmp_path / f"in/{folder}/train.tsv",
        tabs("index", *columns, "label"),
        tabs("0", "Who sang?", "Ann sang.", label),
    )
    put(tmp_path / f"in/{folder}/test.tsv", tabs("index", *columns), tabs("0", "Who slept?", "Bo slept."))
    glue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", task, "train") == [["train-0", label, "Who sang?", "Ann sang."]]
    assert got(tmp_path / "out", task, "test") == [["test-0", "", "Who slept?", "Bo slept."]]


MRPC_HEADER = tabs("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")


def test_mrpc_from_the_tsv_files_which_start_with_a_byte_order_mark(tmp_path):
    put(
        tmp_path / "in/MRPC/train.tsv",
        MRPC_HEADER,
        tabs("1", "11", "12", 'He said "yes".', "He agreed."),
        start="\ufeff",
    )
    header = tabs("index", "#1 ID", "#2 ID", "#1 String", "#2 String")
    put(tmp_path / "in/MRPC/test.tsv", header, tabs("0", "13", "14", "Up it went.", "It rose."))
    glue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "mrpc", "train") == [["train-0", "1", 'He said "yes".', "He agreed."]]
    assert got(tmp_path / "out", "mrpc", "test") == [["test-0", "", "Up it went.", "It rose."]]


def test_mrpc_from_microsofts_files_with_the_list_of_dev_ids(tmp_path):
    rows = [tabs("1", "11", "12", "He agreed.", "He said yes."), tabs("0", "21", "22", "It rose.", "It fell.")]
    put(tmp_path / "in/MRPC/msr_paraphrase_train.txt", MRPC_HEADER, *rows, start="\ufeff")
    put(tmp_path / "in/MRPC/msr_paraphrase_test.txt", MRPC_HEADER, tabs("1", "31", "32", "She ran.", "She did run."))
    put(tmp_path / "in/MRPC/dev_ids.tsv", tabs("21", "22"))
    glue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "mrpc", "train") == [["train-0", "1", "He agreed.", "He said yes."]]
    assert got(tmp_path / "out", "mrpc", "dev") == [["dev-1", "0", "It rose.", "It fell."]]
    assert got(tmp_path / "out", "mrpc", "test") == [["test-0", "1", "She ran.", "She did run."]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"MRPC/dev_ids\.tsv: the file is empty\. Give GLUE's list, two ids in a line, separated by a tab"),
        ("21\t22\n23 24\n", r"MRPC/dev_ids\.tsv:2: '23 24' is no pair of ids\. Give GLUE's list"),
    ],
)
def test_a_damaged_list_of_dev_ids_does_not_leave_dev_rows_in_train(tmp_path, content, message):
    put(tmp_path / "MRPC/msr_paraphrase_train.txt", MRPC_HEADER, tabs("1", "21", "22", "He agreed.", "He said yes."))
    (tmp_path / "MRPC/dev_ids.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        glue.convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ax_takes_the_labelled_file_before_the_unlabelled_one(tmp_path):
    put(
        tmp_path / "in/diagnostic/diagnostic.tsv",
        tabs("index", "sentence1", "sentence2"),
        tabs("0", "Ann ran.", "Ann sat."),
    )
    glue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "ax", "test") == [["test-0", "", "Ann ran.", "Ann sat."]]
    kinds = ("Lexical Semantics", "Predicate-Argument Structure", "Logic", "Knowledge", "Domain")
    put(
        tmp_path / "in/diagnostic/diagnostic-full.tsv",
        tabs(*kinds, "Premise", "Hypothesis", "Label"),
        tabs("", "", "", "", "Made up", "Ann ran.", "Ann sat.", "contradiction"),
    )
    glue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "ax", "test") == [["test-0", "contradiction", "Ann ran.", "Ann sat."]]


# -- SNLI and MultiNLI ----------------------------------------------------------------------------------------------

PAIRS = [
    ("p1#0", "entailment", "A boat drifts.", "Something floats.", ["entailment"] * 4 + ["neutral"]),
    ("p1#1", "-", "A boat drifts.", "A man sleeps in it.", ["neutral", "neutral", "entailment", "entailment"]),
]


def snli_json() -> list[str]:
    keys = ("pairID", "gold_label", "sentence1", "sentence2", "annotator_labels")
    return [json.dumps(dict(zip(keys, pair, strict=True))) for pair in PAIRS]


def snli_text(*more: str) -> list[str]:
    parses = ("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse")
    labels = tuple(f"label{n}" for n in range(1, 6))
    lines = [tabs("gold_label", *parses, "sentence1", "sentence2", "captionID", "pairID", *more, *labels)]
    for id, gold, first, second, given in PAIRS:
        lines.append(
            tabs(gold, "( )", "( )", "(S)", "(S)", first, second, "c", id, *more, *given, *[""] * (5 - len(given)))
        )
    return lines


@pytest.mark.parametrize("ending", ["jsonl", "txt"])
def test_snli_drops_pairs_without_gold_label_and_keeps_all_annotators(tmp_path, ending):
    put(tmp_path / f"in/snli_1.0_dev.{ending}", *(snli_json() if ending == "jsonl" else snli_text()))
    reports = snli.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "snli", "dev") == [["p1#0", "entailment", "A boat drifts.", "Something floats."]]
    assert str(report_of(reports, "dev")).endswith("1 rows written; 1 dropped, no gold label (-) (first: p1#1)")
    assert got(tmp_path / "out", "snli", "dev_nogold") == [["p1#1", "-", "A boat drifts.", "A man sleeps in it."]]
    assert got(tmp_path / "out", "snli", "dev_annotators") == [
        ["p1#0", "entailment,entailment,entailment,entailment,neutral"],
        ["p1#1", "neutral,neutral,entailment,entailment"],
    ]


def test_snli_without_further_annotators_writes_no_file_of_them(tmp_path):
    row = {
        "pairID": "1",
        "gold_label": "neutral",
        "sentence1": "A.",
        "sentence2": "B.",
        "annotator_labels": ["neutral"],
    }
    put(tmp_path / "in/snli_1.0_train.jsonl", json.dumps(row), "{broken")
    reports = snli.convert(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out/snli").iterdir()] == ["train.tsv"]  # nor one without gold labels
    assert sum(reports[0].dropped.values()) == 1


@pytest.mark.parametrize("ending", ["jsonl", "txt"])
def test_multinli_writes_the_task_mnli(tmp_path, ending):
    lines = snli_json() if ending == "jsonl" else snli_text("genre")
    put(tmp_path / f"in/multinli_1.0_dev_matched.{ending}", *lines)
    put(tmp_path / f"in/multinli_0.9_test_matched_unlabeled.{ending}", *lines)
    multinli.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "mnli", "dev_matched") == [
        ["p1#0", "entailment", "A boat drifts.", "Something floats."]
    ]
    assert [row[1] for row in got(tmp_path / "out", "mnli", "test_matched")] == ["", ""]


# -- SciTail --------------------------------------------------------------------------------------------------------

SCIENCE = [("Wood burns in air.", "Wood can burn.", "entails"), ('"Iron" rusts.', "Iron floats.", "neutral")]


def scitail_lines(layout: str) -> list[str]:
    if layout in ("json", "predictor"):
        keys = ("sentence1", "sentence2", "gold_label")
        return [json.dumps(dict(zip(keys, row, strict=True))) for row in SCIENCE]
    if layout == "table":
        header = tabs("gold_label", "sentence1_binary_parse", "sentence1", "sentence2")
        return [header, *(tabs(label, "( )", first, second) for first, second, label in SCIENCE)]
    return [tabs(*row, *(["a<>b<>c"] if layout == "dgem" else [])) for row in SCIENCE]


@pytest.mark.parametrize(
    ("file", "layout"),
    [
        ("snli_format/scitail_1.0_train.txt", "json"),
        ("snli_format/scitail_1.0_train.jsonl", "json"),
        ("snli_format/scitail_1.0_train.txt", "table"),
        ("tsv_format/scitail_1.0_train.tsv", "plain"),
        ("predictor_format/scitail_1.0_structure_train.jsonl", "predictor"),
        ("dgem_format/scitail_1.0_structure_train.tsv", "dgem"),
        ("scitail_1.0_train.tsv", "plain"),
    ],
)
def test_scitail_reads_the_same_rows_from_each_format(tmp_path, file, layout):
    put(tmp_path / "in" / file, *scitail_lines(layout))
    scitail.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "scitail", "train") == [
        ["train-0", "entails", "Wood burns in air.", "Wood can burn."],
        ["train-1", "neutral", '"Iron" rusts.', "Iron floats."],
    ]


# -- ANLI and CS224N ------------------------------------------------------------------------------------------------


def test_anli_rounds_become_splits_and_letters_become_labels(tmp_path):
    row = {
        "uid": "u1",
        "context": "A mill stands\there.",
        "hypothesis": "There is a mill.",
        "label": "e",
        "reason": "plain",
    }
    put(tmp_path / "in/R1/dev.jsonl", json.dumps(row))
    put(tmp_path / "in/R3/test.jsonl", json.dumps(row | {"label": "c"}), json.dumps(row | {"label": "q"}))
    reports = anli.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "anli", "r1_dev") == [["u1", "entailment", "A mill stands here.", "There is a mill."]]
    assert got(tmp_path / "out", "anli", "r3_test")[0][1] == "contradiction"
    assert reports[0].replaced == 1 and reports[1].dropped.total() == 1


def test_cs224n_files_are_split_by_tabs_and_quoted_as_csv(tmp_path):
    put(
        tmp_path / "in/ids-sst-train.csv",
        tabs("", "id", "sentence", "sentiment"),
        tabs("0", "a1", " A fine film .", "3"),
    )
    put(tmp_path / "in/ids-sst-test-student.csv", tabs("0", "", "id", "sentence"), tabs("1", "0.0", "a2", " Dull ."))
    put(
        tmp_path / "in/quora-dev.csv",
        tabs("", "id", "sentence1", "sentence2", "is_duplicate"),
        tabs("0", "b1", '"What is ""it""?"', '"Where\nis it?"', "1.0"),
        tabs("1", "b2", "Half a row"),
    )
    put(
        tmp_path / "in/sts-dev.csv",
        tabs("", "id", "sentence1", "sentence2", "similarity"),
        tabs("0", "c1", "A.", "B.", "2.4"),
    )
    put(tmp_path / "in/ids-cfimdb-dev.csv", tabs("", "id", "sentence", "sentiment"), tabs("0", "d1", "Good.", "1"))
    reports = cs224n.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "sst5", "train") == [["a1", "3", "A fine film ."]]
    assert got(tmp_path / "out", "sst5", "test") == [["a2", "", "Dull ."]]
    assert got(tmp_path / "out", "quora", "dev") == [["b1", "1", 'What is "it"?', "Where is it?"]]
    assert got(tmp_path / "out", "sts", "dev") == [["c1", "2.4", "A.", "B."]]
    assert got(tmp_path / "out", "cfimdb", "dev") == [["d1", "1", "Good."]]
    quora = next(report for report in reports if report.path.parent.name == "quora")
    assert dict(quora.dropped) == {"too few or too many columns": 1}


# -- all ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [glue, snli, multinli, scitail, anli, cs224n])
def test_a_folder_without_the_files_is_refused_with_what_to_name(tmp_path, module):
    with pytest.raises(DataError, match="Name the folder"):
        module.convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_with_other_columns_is_refused_by_name(tmp_path):
    put(
        tmp_path / "in/RTE/train.tsv",
        tabs("index", "premise", "sentence2", "label"),
        tabs("0", "A.", "B.", "entailment"),
    )
    with pytest.raises(DataError, match=r"train\.tsv:1: no column 'sentence1'; the columns are index, premise"):
        glue.convert(tmp_path / "in", tmp_path / "out")
