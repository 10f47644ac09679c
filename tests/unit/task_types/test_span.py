"""Answers cut out of a context: windows, positions, the null answer and its threshold."""

import itertools
import json
import random

import pytest
import torch

from mtdnn.config.tasks import task_def_from
from mtdnn.metrics.answers import best, overlap
from mtdnn.rows.example import RowError
from mtdnn.task_types.span import OUTSIDE, Span, null_threshold

BLOCK = {"task_type": "span", "inputs": ["context", "question"], "max_length": 16, "stride": 4}
LONG = " ".join(f"{word}{number}" for number in range(12) for word in ("heron", "nests", "pond,"))
QUESTION = "where is it?"


def row(id, context, answer=None, question=QUESTION):
    answers = [] if answer is None else [[context.index(answer), answer]]
    return (id, json.dumps(answers), context, question)


def test_the_windows_of_a_row_do_not_hang_on_its_neighbours(make):
    short, long = row("1", LONG), row("2", LONG, question="where do herons build the nests that we saw?")
    known = [LONG, QUESTION, long[3]]
    block = {**BLOCK, "stride": 8}
    alone, beside = make(block, [short], known).columns, make(block, [short, long], known).columns
    for name in ("sequence_lengths", "input_ids", "first", "behind"):
        assert beside[name].row(0).tolist() == alone[name].row(0).tolist(), name


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ('[[3, "lamp"]]', "label: 'lamp' is not at character 3 of the context. It is at 4."),
        ('[[0, "kite"]]', "label: 'kite' is not at character 0 of the context. It is not in the context."),
        ('[[-1, "."]]', "label: '.' is not at character -1 of the context. It is at 15."),
        ('[[0, " "]]', "label: an empty answer. Give its text, or [] if there is none."),
        ("lamp", "label: 'lamp' is not a list of answers. Give JSON such as [[17, \"an answer\"]], or [] for none."),
        ('["lamp"]', "label: '[\"lamp\"]' is not a list of answers. Give JSON such as"),
        (
            "4:::9:::0:::lamp",
            "label: characters 4 to 9 are 5, 'lamp' has 4. The end is the character after the answer.",
        ),
        (
            "3:::7:::0:::lamp",
            "label: 'lamp' is not at character 3 of the context. It is at 4.",
        ),
        ("-1:::-1:::0:::", "label: an empty answer. Give its text, or [] if there is none."),
        ("4:::8:::2:::lamp", "label: '4:::8:::2:::lamp' is not a list of answers. Give JSON such as"),
    ],
)
def test_bad_answers_are_refused(make, label, message):
    task_type = make(BLOCK, [row("1", LONG)]).type
    with pytest.raises(RowError) as caught:
        task_type.read({"id": "1", "label": label, "context": "The lamp is off.", "question": "What?"})
    assert str(caught.value).startswith(message)


def test_a_question_without_answer_is_refused_where_each_has_one(make):
    with pytest.raises(RowError, match="no answer"):
        make({**BLOCK, "unanswerable": False}, [row("1", LONG)])


@pytest.mark.parametrize(
    ("label", "answers"),
    [
        ("4:::8:::0:::lamp", [(4, "lamp")]),
        ("12:::15:::0:::off", [(12, "off")]),
        ("-1:::-1:::1:::", []),
        ("4:::8:::1:::lamp", []),
    ],
)
def test_answers_as_the_original_toolkit_writes_them_are_read(make, label, answers):
    assert make(BLOCK, [("1", label, "The lamp is off.", "?")]).examples[0].label == answers


def test_smoothing_over_tokens_that_are_no_answers_is_refused():
    """Their logits are −∞, and the loss would be ∞ from the first step on."""
    block = {**BLOCK, "loss": {"name": "cross_entropy", "label_smoothing": 0.1}}
    (fault,) = Span.faults(task_def_from("qa", block))
    assert "tokens outside the context, which are no answers" in str(fault)


def test_an_impossible_answer_of_the_original_toolkit_is_refused_where_each_question_has_one(make):
    with pytest.raises(RowError, match=r"label: no answer\. Give one, or set unanswerable: true\."):
        make({**BLOCK, "unanswerable": False}, [("1", "-1:::-1:::1:::", LONG, QUESTION)])


def test_answers_as_the_hub_has_them_are_read(make):
    values = {
        "id": "1",
        "label": {"text": ["off"], "answer_start": [12]},
        "context": "The lamp is off.",
        "question": "?",
    }
    assert make(BLOCK, [values]).examples[0].label == [(12, "off")]


def test_an_empty_cell_is_a_row_without_label_and_an_empty_list_a_question_without_answer(make):
    made = make(BLOCK, [("1", "", LONG, QUESTION), row("2", LONG), row("3", LONG, "nests5")])
    batch = made.batch()
    assert set(batch.labels[batch.row_of_sequence == 0].flatten().tolist()) == {-100}
    assert set(batch.labels[batch.row_of_sequence == 1].flatten().tolist()) == {0}
    assert batch.row_values["answers"] == [None, [], ["nests5"]]
    assert made.type.label_summary(made.type.label_counts(made.columns["label"])) == {
        "unlabelled": 1,
        "counts": {"answer": 1, "no answer": 1},
    }


@pytest.mark.parametrize("answer", ["heron0", "nests4 pond,4", "pond,11", "pond", LONG[40:44]])
def test_the_positions_of_an_answer_stand_for_its_characters(make, answer):
    batch = make(BLOCK, [row("1", LONG, answer)]).batch()
    start = LONG.index(answer)
    found = 0
    for window, (first, last) in enumerate(batch.labels.tolist()):
        if (first, last) != (0, 0):
            found += 1
            begins, behind = int(batch.extras["first"][window, first]), int(batch.extras["behind"][window, last])
            assert begins <= start and behind >= start + len(answer)  # whole tokens, the least that hold the answer
            assert int(batch.extras["behind"][window, first]) > start
            assert int(batch.extras["first"][window, last]) < start + len(answer)
    assert found >= 1
    assert len(batch.labels) > 5


def test_an_answer_that_no_window_holds_is_reported_and_learnt_as_none(make):
    made = make(BLOCK, [row("1", LONG, LONG[10:120])])
    assert made.columns["truncated"].tolist() == [True]
    assert made.batch().labels.abs().sum() == 0


@pytest.mark.parametrize(
    ("context", "answer", "covered"),
    [
        ("Herons nest in cafe\u0301", "cafe\u0301", "cafe"),  # the tokenizer leaves the accent out
        ("Herons nest in cafe\u0301", "in cafe\u0301", "in cafe"),
        ("Herons nest ", "nest ", "nest"),
        ("\u200bHerons nest", "\u200bHerons", "Herons"),
    ],
)
def test_an_answer_is_whole_without_what_no_token_covers_at_its_ends(make, context, answer, covered):
    made = make(BLOCK, [("1", json.dumps([[context.index(answer), answer]]), context, "?")])
    batch, ((first, last),) = made.batch(), made.batch().labels.tolist()
    assert made.columns["truncated"].tolist() == [False]
    assert context[batch.extras["first"][0, first] : batch.extras["behind"][0, last]] == covered


def test_an_answer_of_characters_that_no_token_covers_is_learnt_as_none(make):
    made = make(BLOCK, [("1", json.dumps([[7, "\u200b"]]), "Herons \u200b nest", "?")])
    assert made.batch().labels.tolist() == [[0, 0]] and made.columns["truncated"].tolist() == [True]


def test_windows_cover_the_whole_context(make):
    batch = make(BLOCK, [row("1", LONG)]).batch()
    pairs = zip(batch.extras["first"].flatten().tolist(), batch.extras["behind"].flatten().tolist(), strict=True)
    covered = {place for first, behind in pairs for place in range(first, behind)}
    assert covered - {OUTSIDE} >= {place for place, letter in enumerate(LONG) if letter != " "}


def test_an_answer_is_never_taken_from_the_question_or_across_its_end(make):
    made = make(BLOCK, [row("1", LONG, "heron1"), ("2", "", "Herons nest.", "Who nests in nests?")])
    batch = made.batch()
    wild = torch.randn(len(batch.mask), batch.mask.shape[1], 2, generator=torch.Generator().manual_seed(0)) * 50

    def head(hidden, batch):
        return wild

    logits = made.type.logits(head, wild, batch)
    inside = batch.extras["first"] != OUTSIDE
    inside[:, 0] = True
    assert bool(logits[~inside.unsqueeze(1).expand_as(logits)].isneginf().all())
    for record, context in zip(made.type.predict(logits, batch), (LONG, "Herons nest."), strict=True):
        assert record["answers"] and all(each["text"] in context for each in record["answers"])
        assert sum(each["probability"] for each in record["answers"]) <= 1 + 1e-6


def test_long_questions_are_cut_and_leave_room_for_the_context(make):
    batch = make(BLOCK, [row("1", LONG, "nests3", question="why " * 40)]).batch()
    assert batch.mask.shape[1] == 16
    assert bool(((batch.extras["first"] != OUTSIDE).sum(dim=1) > 0).all())


def scored(make, null, scores):
    """The record of one window of four words, with given null score and given score of each word as an answer."""
    made = make({**BLOCK, "num_best": 2}, [("1", '[[2, "b"]]', "a b c d", "?")])
    batch = made.batch()
    logits = torch.full((1, 2, batch.mask.shape[1]), -torch.inf)
    logits[0, :, 0] = null / 2
    places = (batch.extras["first"][0] != OUTSIDE).nonzero()[:, 0]
    logits[0, :, places] = torch.tensor(scores) / 2
    return made.type, made.type.predict(logits, batch)[0]


def test_the_best_answers_and_their_odds_against_none(make):
    _, record = scored(make, 1.0, [0.0, 3.0, -9.0, 2.0])
    # from b to d is (3 + 2) / 2 = 2.5, in second place
    assert [each["text"] for each in record["answers"]] == ["b", "b c d"]
    assert record["prediction"] == "b" and record["label"] == ["b"]
    assert record["scores"]["null_odds"] == pytest.approx(1.0 - 3.0)
    weights = torch.tensor([3.0, 2.5, 1.0]).softmax(0)
    assert [each["probability"] for each in record["answers"]] == pytest.approx(weights[:2].tolist())


def test_answers_of_more_tokens_than_allowed_are_not_predicted(make):
    made = make({**BLOCK, "max_answer_tokens": 2}, [("1", "[]", "a b c d", "?")])
    batch = made.batch()
    logits = torch.zeros(1, 2, batch.mask.shape[1])
    record = made.type.predict(made.type.logits(lambda hidden, batch: logits.transpose(1, 2), logits, batch), batch)[0]
    assert record["answers"] and all(len(each["text"].split()) <= 2 for each in record["answers"])


def test_the_threshold_in_the_head_decides_for_no_answer(make):
    task_type, record = scored(make, 4.0, [0.0, 3.0, 0.0, 0.0])
    assert record["prediction"] == "" and record["scores"]["null_odds"] == 1.0
    head = task_type.build_head(8, family={"activation": "tanh"}, word_embeddings=torch.nn.Embedding(2, 2))
    assert task_type.settle([record], head, tune=False)[0]["prediction"] == ""
    assert task_type.settle([record], head, tune=True)[0]["prediction"] == "b"
    assert float(head.null_threshold) == 1.0 and "null_threshold" in head.state_dict()


def test_where_each_question_has_an_answer_one_is_always_given(make):
    made = make({**BLOCK, "unanswerable": False}, [("1", '[[0, "a"]]', "a b", "?")])
    logits = torch.zeros(1, 2, made.batch().mask.shape[1])
    logits[:, :, 0] = 50
    record = made.type.predict(
        made.type.logits(lambda h, b: logits.transpose(1, 2), logits, made.batch()), made.batch()
    )[0]
    assert record["prediction"] != ""


def test_the_chosen_threshold_gives_the_highest_f1_there_is():
    rng = random.Random(0)
    words = ["red", "kite", "pond"]
    for _ in range(50):
        records = [
            {
                "id": str(number),
                "label": rng.choice([[], [" ".join(rng.sample(words, 2))]]),
                "answers": [{"text": rng.choice(words), "probability": 0.5}],
                "scores": {"null_odds": float(rng.randint(-3, 3))},
            }
            for number in range(8)
        ]

        def f1(threshold, records=records):
            given = (each["answers"][0]["text"] if each["scores"]["null_odds"] <= threshold else "" for each in records)
            return sum(best(overlap, text, each["label"]) for text, each in zip(given, records, strict=True))

        highest = max(f1(threshold) for threshold in itertools.chain([-9], range(-3, 4)))
        assert f1(null_threshold(records)) == pytest.approx(highest)


def test_divergence_is_the_sum_over_both_ends_and_the_mean_over_windows(make):
    made = make(BLOCK, [row("1", LONG), row("2", "A pond.")])
    batch = made.batch()
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, len(batch.mask), 2, batch.mask.shape[1], generator=generator, dtype=torch.float64)
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    both = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=(1, 2))
    assert made.type.divergence(p, q, batch).tolist() == pytest.approx([float(both[:-1].mean()), float(both[-1])])
