"""Winograd schemas: where the pronoun is, which candidate a hypothesis has, rivals, and what is dropped."""

import json

import pytest

from data_prep import pronouns
from mtdnn.config.tasks import load_task_defs
from mtdnn.errors import DataError
from mtdnn.task_types.base import TASK_TYPES
from tests.conftest import REPOSITORY


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def rows_of(tmp_path, task, split):
    lines = (tmp_path / "out" / task / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines]


def converted(tmp_path):
    return pronouns.convert(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("premise", "hypothesis", "expected"),
    [
        ("The drawer stuck, so Ola oiled it.", "So Ola oiled the drawer.", ("it", "the drawer")),
        ("The drawer stuck, so Ola oiled it.", "Ola oiled the drawer.", ("it", "the drawer")),
        ("Mia thanked Ida because she had waited.", "Mia had waited.", ("she", "Mia")),
        ("Mia thanked Ida. She had waited an hour.", "Ida had waited an hour.", ("She", "Ida")),
        ("Mia met Ida and took her bag home.", "Mia met Ida and took Ida's bag home.", ("her", "Ida")),
        ("The jug fell on the plate and it's broken.", "The plate's broken.", ("it", "The plate")),
    ],
)
def test_the_candidate_takes_the_place_of_the_pronoun(premise, hypothesis, expected):
    start, end, candidate = pronouns.align(premise, hypothesis)
    assert (premise[start:end], candidate) == expected


@pytest.mark.parametrize(
    ("premise", "hypothesis"),
    [
        ("Mia thanked Ida because she had waited.", "Nobody came at all."),  # nothing around the pronoun
        ("Mia thanked Ida because she had waited.", "Eva had waited."),  # who is not in the premise
        ("Rain fell on Leith.", "Leith fell."),  # no pronoun
        ("He said he left.", "Max left and said."),
    ],
)
def test_a_place_that_is_not_sure_is_none(premise, hypothesis):
    assert pronouns.align(premise, hypothesis) is None


WNLI = [
    ("0", "Mia thanked Ida because she had waited.", "Mia had waited.", "0"),
    ("1", "Mia thanked Ida because she had waited.", "Ida had waited.", "1"),
    ("2", "The drawer stuck, so Ola oiled it.", "So Ola oiled the drawer.", "1"),
    ("3", "Rain fell.", "It was wet.", "1"),
]


def test_rows_of_wnli_have_the_candidates_of_the_same_pronoun_as_rivals(tmp_path):
    lines = ["index\tsentence1\tsentence2\tlabel", *("\t".join(row) for row in WNLI)]
    put(tmp_path / "in/WNLI/train.tsv", "\n".join(lines) + "\n")
    put(tmp_path / "in/WNLI/test.tsv", "index\tsentence1\tsentence2\n0\tRain fell.\tIt was wet.\n")
    bad = "0\tRain fell.\n1\t\tIt rained.\t1\n"
    put(tmp_path / "in/WNLI/dev.tsv", f"{lines[0]}\n{bad}{lines[1]}\n")
    reports = converted(tmp_path)
    (train, test) = (report for report in reports if report.path.stem != "dev")
    (dev,) = (report for report in reports if report.path.stem == "dev")
    assert dev.dropped == {"too few or too many columns": 1, "the premise has no word": 1}
    assert rows_of(tmp_path, "wnli_pronoun", "train") == [
        ["train-0", "0", "Mia thanked Ida because *she* had waited.", "Mia", "Ida"],
        ["train-1", "1", "Mia thanked Ida because *she* had waited.", "Ida", "Mia"],
        ["train-2", "1", "The drawer stuck, so Ola oiled *it*.", "the drawer"],
    ]
    assert train.dropped == {"the hypothesis is not the premise with a candidate in a pronoun's place": 1}
    assert (test.written, rows_of(tmp_path, "wnli_pronoun", "test")[0][:2]) == (1, ["test-0", ""])


def test_canonical_rows_of_wnli_are_read_as_well(tmp_path):
    put(tmp_path / "in/wnli/dev.tsv", "".join(f"dev-{row[0]}\t{row[3]}\t{row[1]}\t{row[2]}\n" for row in WNLI))
    converted(tmp_path)
    assert [row[0] for row in rows_of(tmp_path, "wnli_pronoun", "dev")] == ["dev-0", "dev-1", "dev-2"]


@pytest.mark.parametrize("mark", ["", "-", "-1"])
def test_canonical_rows_of_wnli_without_a_label_are_kept(tmp_path, mark):
    """A submission needs every row; with `-`, which is a missing label too, all were dropped."""
    put(tmp_path / "in/wnli/test.tsv", "".join(f"test-{row[0]}\t{mark}\t{row[1]}\t{row[2]}\n" for row in WNLI))
    converted(tmp_path)
    assert [row[1] for row in rows_of(tmp_path, "wnli_pronoun", "test")] == [""] * len(WNLI)


def test_the_pronoun_of_wsc_is_looked_for_where_its_index_is_off(tmp_path):
    target = {"span1_text": "Mia", "span2_text": "she", "span1_index": 0, "span2_index": 3}
    rows = [
        {"text": "Mia thanked Ida because she had waited.", "target": target, "label": True},
        {"text": "Mia thanked Ida because she had waited.", "target": target | {"span1_text": "Ida"}, "label": False},
        {"text": "Mia thanked Ida because it rained.", "target": target, "label": True},
        {"text": "Mia", "target": "x", "label": True},
    ]
    put(tmp_path / "in/WSC/val.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    (report,) = converted(tmp_path)
    assert rows_of(tmp_path, "wsc_pronoun", "dev") == [
        ["dev-0", "yes", "Mia thanked Ida because *she* had waited.", "Mia", "Ida"],
        ["dev-1", "no", "Mia thanked Ida because *she* had waited.", "Ida", "Mia"],
    ]
    assert sum(report.dropped.values()) == 2
    assert any("the pronoun is not in the text" in reason for reason in report.dropped)


SCHEMA = """<collection><schema><text><txt1>The drawer stuck,
 so Ola oiled</txt1><pron>it</pron><txt2>.</txt2></text>
<answers><answer> Ola </answer><answer>The drawer</answer></answers><correctAnswer> B. </correctAnswer></schema>
<schema><text><txt1>x</txt1></text></schema></collection>"""


def test_collections_in_xml_have_the_number_of_the_right_answer(tmp_path):
    put(tmp_path / "in/PDPChallenge2016.xml", SCHEMA)
    (report,) = converted(tmp_path)
    expected = ["test-0", "1", "The drawer stuck, so Ola oiled *it*.", "Ola", "The drawer"]
    assert rows_of(tmp_path, "pdp", "test") == [expected] and sum(report.dropped.values()) == 1
    for text in ("<collection>", '<?xml version="1.0" encoding="foo"?><collection/>'):
        put(tmp_path / "in/PDPChallenge2016.xml", text)
        with pytest.raises(DataError, match=r"PDPChallenge2016\.xml: no XML"):
            converted(tmp_path)


def test_definite_pronouns_are_rows_with_two_candidates(tmp_path):
    good = "Mia thanked Ida because she had waited.\nshe\nMia,Ida\nIda\n"
    put(tmp_path / "in/train.c.txt", f"{good}\nNobody.\nshe\nMia,Ida\nIda\n\nshe\n")
    (report,) = converted(tmp_path)
    assert rows_of(tmp_path, "dpr", "train") == [
        ["train-0", "1", "Mia thanked Ida because *she* had waited.", "Mia", "Ida"]
    ]
    assert sum(report.dropped.values()) == 2


def test_the_rows_are_those_of_the_shipped_definitions(tmp_path):
    test_rows_of_wnli_have_the_candidates_of_the_same_pronoun_as_rivals(tmp_path)
    task = load_task_defs(REPOSITORY / "task_defs/pronouns.yml")["wnli_pronoun"]
    task_type = TASK_TYPES.get(task.task_type)(task)
    for row in rows_of(tmp_path, "wnli_pronoun", "train"):
        example = task_type.read(dict(zip(task_type.columns, [*row[:3], row[3:]], strict=True)))
        assert example.texts[0][example.values["start"] : example.values["end"]] in ("she", "it")


def test_an_empty_folder_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"none of WNLI, WSC, .* is there"):
        pronouns.convert(tmp_path, tmp_path / "out")
