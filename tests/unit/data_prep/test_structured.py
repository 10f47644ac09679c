"""Converters of tags, answers and choices: each reads its source as distributed. All sentences are made up."""

import json

import pytest

from data_prep import conll, squad, superglue
from mtdnn.errors import DataError


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def put_objects(path, *objects):
    put(path, "".join(json.dumps(each) + "\n" for each in objects))


def got(folder, task, split):
    return [line.split("\t") for line in (folder / task / f"{split}.tsv").read_text(encoding="utf-8").splitlines()]


def test_conll_columns_become_words_and_iob2_tags(tmp_path):
    text = (
        "-DOCSTART- -X- O O\n\nAda NNP I-NP I-PER\nBirch NNP I-NP I-PER\nleft VBD I-VP O\n\n"
        "Leith\tNNP\tI-NP\tI-LOC\nYork NNP I-NP B-LOC\n"
    )
    put(tmp_path / "in/eng.train", text)
    conll.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "conll2003", "train") == [
        ["train-0", "B-PER I-PER O", "Ada Birch left"],
        ["train-1", "B-LOC B-LOC", "Leith York"],
    ]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["I-A", "I-B", "I-B"], ["B-A", "B-B", "I-B"]),
        (["B-A", "I-A", "O", "B-B"], ["B-A", "I-A", "O", "B-B"]),
        (["NN", "VB"], ["NN", "VB"]),
    ],
)
def test_tags_in_either_scheme_become_iob2(tags, expected):
    assert conll.iob2(tags) == expected


def test_a_conll_line_without_a_tag_is_reported_with_its_place(tmp_path):
    put(tmp_path / "train.txt", "Ada I-PER\nBirch\n")
    with pytest.raises(DataError, match=r"train.txt:2: 'Birch' has no tag"):
        conll.convert(tmp_path, tmp_path / "out")


def article(context, *questions):
    return {"data": [{"paragraphs": [{"context": context, "qas": list(questions)}]}]}


def test_squad_answers_stand_where_they_are_said_to_in_the_context_as_written(tmp_path):
    answers = [{"text": "noon", "answer_start": 13}, {"text": "noon", "answer_start": 13}]
    questions = (
        {"id": "a", "question": "When?\n", "answers": answers, "is_impossible": False},
        {"id": "b", "question": "Who?", "answers": [], "is_impossible": True, "plausible_answers": answers},
        {"id": "c", "question": "Where?", "answers": [{"text": "Leith", "answer_start": 2}], "is_impossible": False},
        {"id": "d", "question": "Why?", "answers": [], "is_impossible": False},
        {"id": "e", "question": "Why?", "answers": answers, "is_impossible": "false"},
    )
    put(tmp_path / "in/dev-v2.0.json", json.dumps(article(" It\tleft at  noon. ", *questions)))
    report = squad.convert(tmp_path / "in", tmp_path / "out")[0]
    assert got(tmp_path / "out", "squad2", "dev") == [
        ["a", '[[12, "noon"]]', "It left at  noon.", "When?"],
        ["b", "[]", "It left at  noon.", "Who?"],
    ]
    assert report.dropped == {
        "an answer is not where it is said to stand": 1,
        "no answer, and not said to be impossible": 1,
        "is_impossible is 'false', neither true nor false": 1,
    }


def test_another_layout_than_squads_is_refused(tmp_path):
    put(tmp_path / "dev-v1.1.json", "[]")
    with pytest.raises(
        DataError, match=r"dev-v1\.1\.json: damaged: expected a mapping of keys to values\. A file of data"
    ):
        squad.convert(tmp_path, tmp_path / "out")


def test_superglue_pairs_have_labels_by_name_and_none_in_test(tmp_path):
    put_objects(tmp_path / "in/BoolQ/train.jsonl", {"passage": "Hens lay.", "question": "do hens lay", "label": True})
    put_objects(tmp_path / "in/BoolQ/test.jsonl", {"passage": "Hens lay.", "question": "do cows lay"})
    put_objects(tmp_path / "in/CB/val.jsonl", {"premise": "He says so.", "hypothesis": "So.", "label": "neutral"})
    put_objects(
        tmp_path / "in/WiC/train.jsonl",
        {"word": "bank", "sentence1": "The bank.", "sentence2": "A river bank.", "label": False},
    )
    superglue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "boolq", "train") == [["train-0", "yes", "Hens lay.", "do hens lay"]]
    assert got(tmp_path / "out", "boolq", "test") == [["test-0", "", "Hens lay.", "do cows lay"]]
    assert got(tmp_path / "out", "cb", "dev") == [["dev-0", "neutral", "He says so.", "So."]]
    assert got(tmp_path / "out", "wic", "train") == [["train-0", "no", "bank: The bank.", "bank: A river bank."]]


def test_copa_has_its_question_spelt_out_and_two_choices(tmp_path):
    row = {"premise": "He fell.", "choice1": "Ice.", "choice2": "Sun.", "question": "cause", "label": 0}
    put_objects(tmp_path / "in/COPA/val.jsonl", row)
    superglue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "copa", "dev") == [["dev-0", "0", "He fell.", "What was the cause?", "Ice.", "Sun."]]


def test_multirc_has_a_row_for_each_answer(tmp_path):
    answers = [{"text": "At noon.", "idx": 0, "label": 1}, {"text": "Never.", "idx": 1, "label": 0}]
    passage = {"text": "It left at noon.", "questions": [{"question": "When?", "idx": 4, "answers": answers}]}
    put_objects(tmp_path / "in/MultiRC/train.jsonl", {"idx": 0, "passage": passage})
    superglue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "multirc", "train") == [
        ["train-0-4-0", "yes", "It left at noon.", "When? At noon."],
        ["train-0-4-1", "no", "It left at noon.", "When? Never."],
    ]


def test_record_has_each_entity_once_and_all_right_ones_marked(tmp_path):
    text = "Ada Birch met Ida.\n@highlight\nBirch won. Ida left."
    entities = [{"start": 0, "end": 8}, {"start": 14, "end": 16}, {"start": 30, "end": 34}, {"start": 41, "end": 43}]
    question = {"query": "@placeholder won", "idx": 7, "answers": [{"text": "Birch"}, {"text": "Ada Birch"}]}
    put_objects(
        tmp_path / "in/ReCoRD/train.jsonl", {"passage": {"text": text, "entities": entities}, "qas": [question]}
    )
    superglue.convert(tmp_path / "in", tmp_path / "out")
    passage = "Ada Birch met Ida.   Birch won. Ida left."
    assert got(tmp_path / "out", "record", "train") == [
        ["train-0-7", "0,2", passage, "@placeholder won", "Ada Birch", "Ida", "Birch"]
    ]


def test_wsc_marks_the_pronoun(tmp_path):
    target = {"span1_text": "Ada", "span1_index": 0, "span2_text": "she", "span2_index": 3}
    put_objects(
        tmp_path / "in/WSC/train.jsonl", {"text": "Ada laughed because she won.", "target": target, "label": True}
    )
    superglue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "wsc", "train") == [["train-0", "yes", "Ada laughed because *she* won.", "Ada"]]


def wsc_text(tmp_path, text, pronoun, index, label=True):
    """The marked text of one row of WSC; None when it is dropped."""
    target = {"span1_text": "Ada", "span1_index": 0, "span2_text": pronoun, "span2_index": index}
    sound = {"span1_text": "Ada", "span1_index": 0, "span2_text": "she", "span2_index": 1}
    put_objects(
        tmp_path / "in/WSC/val.jsonl",
        {"text": text, "target": target, "label": label},
        {"text": "Because she won.", "target": sound, "label": False},
    )
    superglue.convert(tmp_path / "in", tmp_path / "out")
    rows = {row[0]: row[2] for row in got(tmp_path / "out", "wsc", "dev")}
    assert rows["dev-1"] == "Because *she* won."
    return rows.get("dev-0")


@pytest.mark.parametrize(
    ("text", "pronoun", "index", "marked"),
    [
        ("Ada  saw Tom.\nHe waved.", "He", 3, "Ada  saw Tom. *He* waved."),  # words between any white space
        ("Ada  saw him and Ida saw him", "him", 3, "Ada  saw *him* and Ida saw him"),  # between single spaces
        ("Ada saw him and Ida saw him.", "him", 6, "Ada saw him and Ida saw *him*."),
        ("Ada saw him and Ida saw him.", "him", 5, "Ada saw him and Ida saw *him*."),  # off by one
        ("Ada saw him and left", "him", 40, "Ada saw *him* and left"),  # it comes once
        ("Ada saw him and left", "him", -3, "Ada saw *him* and left"),
        ('Ada said: "Her cat, hers." I saw', "hers", 4, 'Ada said: "Her cat, *hers*." I saw'),
        ("With it within", "it", 0, "With *it* within"),  # whole words
        ("Ada said it's late", "it", 2, "Ada said *it*'s late"),
        ("Ada saw her own cat", "her  own", 2, "Ada saw *her own* cat"),
        ("He saw Ada.", "he", 0, "*He* saw Ada."),  # the text's case counts where the phrase is at its number
        ("Ada won (she) here", "she.", 2, "Ada won (*she*) here"),
    ],
)
def test_wsc_marks_the_word_that_the_phrase_names_where_the_index_is_off(tmp_path, text, pronoun, index, marked):
    assert wsc_text(tmp_path, text, pronoun, index) == marked


@pytest.mark.parametrize(
    ("text", "pronoun", "index"),
    [
        ("Ada saw Tom and left", "him", 1),  # not there
        ("him a b c d e f g him", "him", 4),  # as far from one as from the other
        ("him a b c d e f g him", "him", 3),  # too far from both
        ("He saw that he won", "he", 0),  # phrase and index name different words
        ("Ada won", "...", 1),
    ],
)
def test_wsc_rows_whose_pronoun_is_not_sure_are_dropped_and_counted(tmp_path, text, pronoun, index):
    assert wsc_text(tmp_path, text, pronoun, index) is None
    report = superglue.convert(tmp_path / "in", tmp_path / "out")[0]
    assert (report.written, list(report.dropped.values())) == (1, [1])
    assert "1 dropped, the pronoun is not in the text" in str(report)


@pytest.mark.parametrize(
    ("value", "label"),
    [(True, "yes"), (1, "yes"), ("true", "yes"), (False, "no"), (0, "no"), ("False", "no"), (None, ""), (-1, "")],
)
def test_a_truth_value_is_yes_or_no_and_the_hubs_minus_one_is_none(value, label):
    assert superglue.yes_or_no(value) == label


def test_a_superglue_label_that_is_none_is_dropped_not_taken_for_no(tmp_path):
    rows = [{"passage": "Hens lay.", "question": "do hens lay", "label": label} for label in ("maybe", True)]
    put_objects(tmp_path / "in/BoolQ/val.jsonl", *rows)
    report = superglue.convert(tmp_path / "in", tmp_path / "out")[0]
    assert report.dropped == {"another layout (label 'maybe' is neither true nor false)": 1}
    row = {"premise": "He fell.", "choice1": "Ice.", "choice2": "Sun.", "question": "cause", "label": -1}
    put_objects(tmp_path / "in/COPA/test.jsonl", row)
    put_objects(tmp_path / "in/CB/test.jsonl", {"premise": "He says so.", "hypothesis": "So.", "label": -1})
    superglue.convert(tmp_path / "in", tmp_path / "out")
    assert got(tmp_path / "out", "copa", "test")[0][1] == ""
    assert got(tmp_path / "out", "cb", "test")[0][1] == ""


def test_a_folder_without_files_is_reported(tmp_path):
    for converter in (conll, squad, superglue):
        with pytest.raises(DataError, match="is there"):
            converter.convert(tmp_path, tmp_path / "out")
