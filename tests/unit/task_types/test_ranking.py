"""Candidates in order: losses, rows of different sizes, and rows joined from those of a classification task."""

import math

import pytest
import torch

from mtdnn.networks.losses import UNKNOWN, listwise, pairwise_margin
from mtdnn.rows.example import RowError

BLOCK = {"task_type": "ranking", "inputs": ["question", "candidate"]}
ROWS = [
    ("1", "a,b,c", "0,1,0", "Where?", "Here.", "There.", "Nowhere."),
    ("2", "d", "1", "When?", "Now."),
    ("3", "e,f", "", "Who?", "Ida.", "Ada."),
    ("4", "g,h", "0,0", "Why?", "Because.", "So."),
]
NO = -math.inf


def test_the_listwise_loss_is_the_cross_entropy_of_the_relevant_candidate():
    logits = torch.tensor([[1.0, 2.0, 0.0], [5.0, 1.0, NO], [1.0, 1.0, NO]], requires_grad=True)
    labels = torch.tensor([[0.0, 1.0, 0.0], [UNKNOWN] * 3, [0.0, 0.0, UNKNOWN]])
    expected = -math.log(math.exp(2) / (math.exp(1) + math.exp(2) + 1))
    loss = listwise(logits, labels)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert bool(logits.grad.isfinite().all()) and float(logits.grad[1:].abs().max()) == 0


def test_several_relevant_candidates_share_the_listwise_target_by_their_relevance():
    logits = torch.tensor([[1.0, 0.0, -1.0]])
    shares = logits[0].log_softmax(0)
    expected = -(2 / 3 * shares[0] + 1 / 3 * shares[2])
    assert listwise(logits, torch.tensor([[2.0, 0.0, 1.0]])).item() == pytest.approx(expected.item())


def test_the_pairwise_loss_by_hand():
    logits = torch.tensor([[1.0, 0.5, 3.0, NO], [0.0, 0.0, NO, NO]], requires_grad=True)
    labels = torch.tensor([[2.0, 0.0, 1.0, UNKNOWN], [0.0, 0.0, UNKNOWN, UNKNOWN]])
    # pairs of the first row: 0 over 1 gap 0.5, 0 over 2 gap −2, 2 over 1 gap 2.5; margin 1: 0.5, 3, 0
    loss = pairwise_margin(logits, labels, margin=1.0)
    assert loss.item() == pytest.approx(3.5 / 3)
    loss.backward()
    assert bool(logits.grad.isfinite().all()) and float(logits.grad[1].abs().max()) == 0


def test_the_margin_is_that_of_the_block(make):
    made = make({**BLOCK, "loss": {"name": "pairwise_margin", "margin": 4}}, ROWS)
    logits = torch.zeros(4, 3).masked_fill(~made.batch().extras["present"], NO)
    assert made.type.loss(logits, made.batch()).item() == pytest.approx((4 + 0) / 2)  # row 2 has no pair


def test_rows_of_different_numbers_of_candidates_come_in_one_batch(make):
    batch = make(BLOCK, ROWS).batch()
    assert len(batch) == 4 and len(batch.mask) == 8
    assert batch.extras["sequences"].tolist() == [3, 1, 2, 2]
    assert batch.labels.tolist() == [[0, 1, 0], [1, -1, -1], [-1, -1, -1], [0, 0, -1]]


def test_scores_go_to_their_row_and_place(make):
    made = make(BLOCK, ROWS)
    batch = made.batch([2, 0])
    scores = torch.arange(5.0).unsqueeze(1)
    logits = made.type.logits(lambda hidden, batch: scores, scores, batch)
    assert logits.tolist() == [[0.0, 1.0, NO], [2.0, 3.0, 4.0]]
    unlabelled, labelled = made.type.predict(logits, batch)
    assert unlabelled["prediction"] == ["f", "e"] and unlabelled["label"] is None
    assert labelled["prediction"] == ["c", "b", "a"] and labelled["label"] == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert sum(labelled["scores"].values()) == pytest.approx(1.0)


def test_a_row_without_a_relevant_candidate_neither_teaches_nor_counts(make):
    made = make(BLOCK, ROWS)
    batch = made.batch([3])
    logits = torch.zeros(1, 2)
    assert made.type.label_count(batch) == 0 and made.type.loss(logits, batch).item() == 0
    assert made.type.predict(logits, batch)[0]["label"] is None
    assert made.type.label_summary(made.type.label_counts(made.columns["label"])) == {
        "unlabelled": 1,
        "counts": {"with a relevant candidate": 2, "with none": 1, "candidates": 8},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidate": []}, "candidate: no candidates. Give at least one, or remove the row."),
        ({"candidate": ["Here.", " "]}, "candidate 2: empty text. Give the text, or remove the candidate."),
        ({"question": ""}, "question: empty text."),
        (
            {"candidate_ids": "a"},
            "candidate_ids: 1 for 2 candidates. Give one for each candidate, separated by commas.",
        ),
        ({"candidate_ids": "a,a"}, "candidate_ids: 'a' is the id of two candidates. Rename one of them."),
        ({"label": "1,0,0"}, "label: 3 for 2 candidates."),
        ({"label": "yes,no"}, "label: 'yes' is not a number. Give a relevance such as 0 or 1."),
        ({"label": "-1,0"}, "label: '-1' is not a relevance. Give a number ≥ 0."),
        ({"question": {"text": "Where?"}}, "question: a dict; expected a text. Give a text, or its path in the task's"),
        ({"candidate": ["Here.", {"text": "There."}]}, "candidate: a dict; expected a text. Give each as a text."),
        (
            {"candidate": [{"text": ["Here.", "There."]}]},
            "candidate: a dict; expected a text. Give a text, or its path",
        ),
        ({"label": "1,1"}, "label: 2 best candidates; expected one. Mark one, or set one_best: false."),
    ],
)
def test_bad_rows_are_refused(make, changes, message):
    task_type = make({**BLOCK, "one_best": True}, ROWS[:1]).type
    values = {"id": "1", "candidate_ids": "a,b", "label": "1,0", "question": "Where?", "candidate": ["Here.", "There."]}
    with pytest.raises(RowError) as caught:
        task_type.read({**values, **changes})
    assert str(caught.value).startswith(message)


def test_rows_of_a_classification_task_become_a_ranking_by_their_question(tmp_path):
    from data_prep.demo import train_tokenizer
    from mtdnn.config.tasks import task_def_from
    from mtdnn.data.prepro import prepare
    from mtdnn.data.store import open_store

    lines = ["q1-0\tno\tWhere?\tHere.", "q2-0\tyes\tWhen?\tNow.", "q1-1\tyes\tWhere?\tThere.", "q3-0\tno\tWhy?\tSo."]
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "dev.tsv").write_text("\n".join(lines) + "\n")
    train_tokenizer(lines).save_pretrained(tmp_path / "encoder")
    block = {**BLOCK, "labels": ["no", "yes"], "group_by": "question", "splits": {"dev": "dev"}}
    task = task_def_from("qa", block)
    prepare({"qa": task}, data=tmp_path, encoder=tmp_path / "encoder", out=tmp_path / "out", num_workers=1)
    store = open_store(tmp_path / "out", task, "dev")
    assert store.ids == ["q1-0", "q2-0", "q3-0"]
    records = store.take(torch.tensor([0, 1, 2]).numpy())
    assert records["candidate_names"] == ['["q1-0", "q1-1"]', '["q2-0"]', '["q3-0"]']
    assert [row.tolist() for row in map(records["label"].row, range(3))] == [[0, 1], [1], [0]]


def test_a_group_with_labels_in_part_is_refused(make):
    made = make({**BLOCK, "group_by": "question"}, [("1", "1", "Where?", "Here.")])
    rows = [{"id": str(n), "label": label, "question": "Where?", "candidate": "Here."} for n, label in enumerate("1-")]
    with pytest.raises(RowError, match="label: 1 of 2 rows of this group have no label"):
        made.type.join(rows)


def test_rows_cannot_be_joined_by_the_candidate(make):
    from mtdnn.config.tasks import task_def_from
    from mtdnn.task_types.ranking import Ranking

    faults = list(map(str, Ranking.faults(task_def_from("task", {**BLOCK, "group_by": "candidate"}))))
    assert faults == [
        "task: task.group_by: 'candidate' cannot join rows. "
        "Name question: the rows of a group differ in their last text."
    ]
