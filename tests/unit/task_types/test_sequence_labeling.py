"""One tag a word: parsing, windows, and predictions put together again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mtdnn.batch import IGNORED, NO_WORD
from mtdnn.config.tasks import task_def_from
from mtdnn.rows.example import RowError
from mtdnn.task_types.base import TASK_TYPES
from mtdnn.task_types.sequence_labeling import words_of

BLOCK = {"task_type": "sequence_labeling", "inputs": ["tokens"], "labels": ["O", "B-PER", "I-PER", "B-LOC"]}
WORDS = [
    "Ada",
    "unbelievably",
    "left",
    "old",
    "Leith",
    ",",
    "crossing",
    "bridges",
    "without",
    "stopping",
    "anywhere",
    ".",
]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("O B-PER  O", ["O", "B-PER", "O"]),
        ("['O', 'B-PER']", ["O", "B-PER"]),
        (["O", 1], ["O", "1"]),
        ("[ Reuters ]", ["[", "Reuters", "]"]),
        ("[ 1 , 2 ]", ["[", "1", ",", "2", "]"]),
        ("[{[1]} ]", ["[{[1]}", "]"]),  # a set of a list, for which Python has an error of another kind
        ("1\u00a0000 kg", ["1\u00a0000", "kg"]),
    ],
)
def test_a_cell_is_words_between_spaces_or_a_python_list_of_strings(cell, words):
    assert words_of(cell) == words


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label": "O O", "tokens": "Ada left ."}, "label: 2 tags for 3 words. Give one tag for each word."),
        (
            {"label": "O B-PERS O", "tokens": "Ada left ."},
            "label: tag 2 of 3, 'B-PERS', is not in task.labels (task). Did you mean 'B-PER'? "
            "Fix the row, or add the tag.",
        ),
        ({"label": "", "tokens": "  "}, "tokens: no words. Give the words, or remove the row."),
        ({"label": "O", "tokens": "[]"}, None),
    ],
)
def test_bad_rows_are_refused(make, values, message):
    task_type = make(BLOCK, [("1", "O", "Rain")]).type
    if message is None:  # a text that is two brackets
        assert task_type.read({"id": "1", **values}).values["words"] == ["[]"]
        return
    with pytest.raises(RowError) as caught:
        task_type.read({"id": "1", **values})
    assert str(caught.value) == message


def test_only_the_first_sub_word_of_a_word_has_its_tag(make):
    rows = [("1", "B-PER O O", "Ada unbelievably left"), ("2", "", "Ada left")]
    batch = make(BLOCK, rows, known=["ada left", "un believ ably"]).batch()
    assert batch.mask.sum(dim=1).tolist() == [11, 4]  # "unbelievably" is seven tokens
    assert [(row >= 0).sum() for row in batch.extras["words"].numpy()] == [3, 2]
    assert batch.labels[0][batch.extras["words"][0] >= 0].tolist() == [1, 0, 0]
    assert bool((batch.labels[1] == IGNORED).all())


@pytest.mark.parametrize("overlap", [0, 1, 3, 5, 30])
def test_every_word_of_a_long_text_counts_in_exactly_one_window(make, overlap):
    words = [WORDS[index % len(WORDS)] for index in range(70)]
    row = ("1", " ".join(["O"] * 70), " ".join(words))
    made = make({**BLOCK, "max_length": 12, "overlap": overlap}, [row, ("2", "B-PER", "Ada")])
    batch = made.batch()
    assert len(batch.mask) > 5 and batch.mask.shape[1] == 12
    of_row = batch.extras["words"][batch.row_of_sequence == 0]
    assert sorted(of_row[of_row != NO_WORD].tolist()) == list(range(70))
    assert batch.extras["sequences"].tolist() == [len(batch.mask) - 1, 1]


def test_a_word_counts_where_most_is_around_it(make):
    words = [f"{letter}" for letter in "abcdefghijklmnop"]
    made = make({**BLOCK, "max_length": 10, "overlap": 4}, [("1", " ".join("O" * 16), " ".join(words))])
    first, second = (row[row != NO_WORD].tolist() for row in made.batch().extras["words"][:2])
    # windows of 8 letters: 0–7 and 4–11; 4 and 5 stand farther from the edge of the first one, 6 and 7 of the second
    assert first == [0, 1, 2, 3, 4, 5] and second[:2] == [6, 7]


def test_windows_from_the_end_of_a_text_are_counted_in_the_order_of_the_text(make):
    """A tokenizer that truncates on the left has the last window first."""
    words = [f"{letter}" for letter in "abcdefghijklmnop"]
    made = make({**BLOCK, "max_length": 10, "overlap": 4}, [("1", " ".join("O" * 16), " ".join(words))])
    made.tokenizer.truncation_side = "left"
    marks = made.type.encode(made.examples, lambda texts: {})["words"].values.reshape(3, 10)
    # windows of 8 letters: 8–15, 4–11 and 0–7; 6 to 9 are farther from the edges of the second one
    assert [row[row != NO_WORD].tolist() for row in marks] == [[*range(10, 16)], [*range(6, 10)], [*range(6)]]


def test_a_word_between_windows_from_the_end_counts_at_its_first_sub_word(make):
    words = ["Ada", "unbelievably", "left", "old", "Leith"] * 6
    row = ("1", " ".join("O" * 30), " ".join(words))
    made = make({**BLOCK, "max_length": 12, "overlap": 4}, [row], known=["ada left old leith", "un believ ably"])
    made.tokenizer.truncation_side = "left"
    columns = made.type.encode(made.examples, lambda texts: {})
    marks, tokens = columns["words"].row(0), made.tokenizer.convert_ids_to_tokens(columns["input_ids"].row(0))
    assert sorted(marks[marks != NO_WORD].tolist()) == list(range(30))
    assert [token for token, mark in zip(tokens, marks, strict=True) if mark != NO_WORD and token[:2] == "##"] == []


def test_predictions_of_windows_are_put_together_word_by_word(make):
    words = [WORDS[index % len(WORDS)] for index in range(40)]
    made = make({**BLOCK, "max_length": 14, "overlap": 4}, [("1", " ".join(["O"] * 40), " ".join(words))])
    batch = made.batch()
    wanted = batch.extras["words"].clamp(min=0) % 4
    record = made.type.predict(torch.nn.functional.one_hot(wanted, 4).float(), batch)[0]
    assert record["prediction"] == [BLOCK["labels"][index % 4] for index in range(40)]
    assert record["label"] == ["O"] * 40


def test_a_word_that_no_token_is_for_is_reported_the_tag_o(make):
    made = make(BLOCK, [("1", "B-PER B-LOC B-PER", "Ada \u200b Ada")])
    record = made.type.predict(torch.tensor([0.0, 1, 0, 0]).expand(1, made.batch().mask.shape[1], 4), made.batch())[0]
    assert record["prediction"] == ["B-PER", "O", "B-PER"] and record["label"] == ["B-PER", "B-LOC", "B-PER"]


def test_divergence_is_the_mean_over_the_words_of_a_row_over_all_its_windows(make):
    words = [WORDS[index % len(WORDS)] for index in range(30)]
    made = make({**BLOCK, "max_length": 12, "overlap": 4}, [("1", "", " ".join(words)), ("2", "", "Ada left")])
    batch = made.batch()
    p = torch.randn((*batch.mask.shape, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = torch.zeros_like(p)
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    by_hand = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)
    counts = batch.extras["words"] != NO_WORD
    expected = [float(by_hand[:-1][counts[:-1]].mean()), float(by_hand[-1][counts[-1]].mean())]
    assert made.type.divergence(p, q, batch).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_manifest_counts_tags(make):
    made = make(BLOCK, [("1", "B-PER O", "Ada left"), ("2", "", "Ada left")])
    assert made.type.label_summary(made.type.label_counts(made.columns["label"])) == {
        "unlabelled": 1,
        "counts": {"O": 1, "B-PER": 1, "I-PER": 0, "B-LOC": 0},
    }
    assert made.columns["label"].values.dtype == np.int64


def test_parts_of_speech_are_measured_by_tokens_alone(make):
    from mtdnn.config.tasks import task_def_from
    from mtdnn.task_types.sequence_labeling import SequenceLabeling

    block = {**BLOCK, "labels": ["NN", "VB"]}
    assert make(block, [("1", "NN VB", "Ada left")]).type.metric_names == ("token_accuracy",)
    (line,) = map(str, SequenceLabeling.faults(task_def_from("pos", {**block, "metrics": ["entity_f1"]})))
    assert "metrics of entities, but 'NN' is not an entity tag" in line


def test_a_loss_of_single_words_is_refused_for_chains():
    kind = TASK_TYPES.get("sequence_labeling")
    block = {**BLOCK, "head": "crf", "loss": "cross_entropy"}
    assert list(map(str, kind.faults(task_def_from("ner", block)))) == [
        "ner: ner.loss: cross_entropy with head: crf. "
        "Remove it: this head has its own loss, the likelihood of whole sentences."
    ]
    del block["loss"]
    assert kind.faults(task_def_from("ner", block)) == []


def test_a_task_with_fewer_tags_predicts_the_rows_of_another_and_gives_them_no_label(make):
    made = make(BLOCK, [("1", "O B-LOC O", "to Leith ."), ("2", "O", "Rain")])
    other = TASK_TYPES.get("sequence_labeling")(task_def_from("other", {**BLOCK, "labels": ["O", "I"]}))
    batch = replace(made.batch(), task="other", labels=None)
    logits = torch.nn.functional.one_hot(torch.ones(batch.inputs["input_ids"].shape, dtype=torch.long), 2).float()
    assert other.predict(logits, batch) == [
        {"id": "1", "prediction": ["I", "I", "I"], "label": None, "scores": {}},
        {"id": "2", "prediction": ["I"], "label": None, "scores": {}},
    ]
