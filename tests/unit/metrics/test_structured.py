"""Metrics of tags, hidden words, answers and rankings against seqeval, scikit-learn and cases worked by hand."""

import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from mtdnn.errors import DataError
from mtdnn.metrics.answers import exact, normalized, overlap
from mtdnn.metrics.base import applicable, compute
from mtdnn.metrics.records import score, write_records
from mtdnn.metrics.tags import Entity, entities


def records_of(predictions, labels):
    pairs = enumerate(zip(predictions, labels, strict=True))
    return [{"id": str(i), "prediction": guess, "label": label, "scores": {}} for i, (guess, label) in pairs]


ENTITY_METRICS = ["entity_precision", "entity_recall", "entity_f1"]


@pytest.fixture(scope="module")
def seqeval_metrics() -> ModuleType:
    """The oracle of the entity metrics: another implementation of the CoNLL script."""
    return pytest.importorskip("seqeval.metrics", reason="seqeval is in the dev extra: pip install 'mtdnn[dev]'")


def tag_rows(prefixes: str) -> st.SearchStrategy[list[tuple[list[str], list[str]]]]:
    """Rows of (predicted, labelled) tags in any order, well formed or not, where half of the tokens agree."""
    tag = st.builds("{}-{}".format, st.sampled_from(prefixes), st.sampled_from(["PER", "LOC", "A-B"])) | st.just("O")
    pair = st.builds(lambda label, other, same: (label if same else other, label), tag, tag, st.booleans())
    return st.lists(st.lists(pair, min_size=1, max_size=12), min_size=1, max_size=4).map(
        lambda rows: [([guess for guess, _ in row], [label for _, label in row]) for row in rows]
    )


def by_seqeval(metrics: ModuleType, predictions: Sequence[list[str]], labels: Sequence[list[str]]) -> list[float]:
    """Precision, recall and F1; seqeval knows IOB and IOBES, so BILOU's letters are changed to those of IOBES."""
    letters = {"L-": "E-", "U-": "S-"}
    named = [
        [[letters.get(tag[:2], tag[:2]) + tag[2:] for tag in row] for row in rows] for rows in (labels, predictions)
    ]
    functions = (metrics.precision_score, metrics.recall_score, metrics.f1_score)
    return [float(function(*named, zero_division=0)) for function in functions]


@pytest.mark.parametrize(
    "prefixes", ["BI", "I", "BIES", "BILU", "BIESLU"], ids=["IOB", "IO", "IOBES", "BILOU", "mixed"]
)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_entity_metrics_of_any_tags_are_those_of_seqeval(
    seqeval_metrics: ModuleType, prefixes: str, data: st.DataObject
) -> None:
    predictions, labels = zip(*data.draw(tag_rows(prefixes)), strict=True)
    found = compute(ENTITY_METRICS, records_of(predictions, labels))
    assert list(found.values()) == pytest.approx(by_seqeval(seqeval_metrics, predictions, labels))


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        (["I-PER", "I-PER", "B-PER", "I-LOC"], [("PER", 0, 1), ("PER", 2, 2), ("LOC", 3, 3)]),  # IOB1
        (["O", "E-PER", "I-PER"], [("PER", 1, 1), ("PER", 2, 2)]),  # an end without a beginning is an entity of one
        (["B-PER", "I-LOC", "L-LOC", "L-LOC"], [("PER", 0, 0), ("LOC", 1, 2), ("LOC", 3, 3)]),
        (["U-PER", "L-PER", "B-PER"], [("PER", 0, 0), ("PER", 1, 1), ("PER", 2, 2)]),
        (["B-A-B", "I-B", "O"], [("A-B", 0, 0), ("B", 1, 1)]),  # a kind may hold a dash
        ([], []),
    ],
)
def test_entities_of_a_row_by_hand(tags: list[str], wanted: list[tuple[str, int, int]]) -> None:
    assert entities(tags) == {Entity(*each) for each in wanted}


def test_tokens_are_counted_over_all_rows_together() -> None:
    records = records_of([["O"], ["B-PER", "O", "O"]], [["O"], ["B-PER", "I-PER", "O"]])
    assert compute(["token_accuracy"], records) == {"token_accuracy": 3 / 4}


def test_entities_by_hand():
    # gold: PER(0–1), LOC(3); predicted: PER(0–1), LOC(2), LOC(3) → 2 of 3 right, 2 of 2 found
    records = records_of([["B-PER", "I-PER", "B-LOC", "B-LOC"]], [["B-PER", "I-PER", "O", "B-LOC"]])
    found = compute(["entity_precision", "entity_recall", "entity_f1", "token_accuracy"], records)
    assert list(found.values()) == pytest.approx([2 / 3, 1.0, 0.8, 0.75])


@pytest.mark.parametrize("letters", ["LU", "ES"])
def test_entities_in_bilou_and_iobes_by_hand(letters):
    # gold: PER(0), PER(1), LOC(2–3); predicted: PER(0), LOC(2–3) → both right, 2 of 3 found; as seqeval's strict BILOU
    last, single = letters
    label = [f"{single}-PER", f"{single}-PER", "B-LOC", f"{last}-LOC"]
    found = compute(
        ["entity_precision", "entity_recall", "entity_f1"], records_of([[label[0], "O", *label[2:]]], [label])
    )
    assert list(found.values()) == pytest.approx([1.0, 2 / 3, 0.8])


def test_well_formed_bilou_is_counted_as_seqevals_strict_scheme_does(seqeval_metrics):
    from seqeval.scheme import BILOU

    rng = np.random.default_rng(0)
    spans = (["O"], ["U-PER"], ["U-LOC"], ["B-PER", "L-PER"], ["B-LOC", "I-LOC", "L-LOC"])
    rows = [[[tag for i in rng.integers(0, 5, 30) for tag in spans[i]][:20] for _ in range(2)] for _ in range(20)]
    rows = [row for row in rows if all(tags[-1][0] in "OUL" for tags in row)]
    assert len(rows) > 3
    predictions, labels = (list(each) for each in zip(*rows, strict=True))
    wanted = seqeval_metrics.f1_score(labels, predictions, mode="strict", scheme=BILOU)
    assert compute(["entity_f1"], records_of(predictions, labels))["entity_f1"] == pytest.approx(wanted)


def test_no_entities_at_all_give_0_and_no_warning(recwarn):
    assert compute(["entity_f1"], records_of([["O"]], [["O"]])) == {"entity_f1": 0.0}
    assert not recwarn.list


def test_perplexity_weighs_rows_by_their_hidden_tokens():
    records = [
        {"id": "a", "prediction": ["x"], "label": ["x"], "scores": {"nll": math.log(4), "tokens": 1}},
        {"id": "b", "prediction": ["y"] * 2, "label": ["y", "z"], "scores": {"nll": 2 * math.log(32), "tokens": 2}},
        {"id": "c", "prediction": [], "label": [], "scores": {"nll": 0.0, "tokens": 0}},
    ]
    assert compute(["perplexity", "token_accuracy"], records) == pytest.approx(
        {"perplexity": 16.0, "token_accuracy": 2 / 3}  # (4 · 32 · 32) ** (1/3)
    )
    assert compute(["perplexity"], records[2:]) == {"perplexity": 1.0}


@pytest.mark.parametrize(
    ("text", "plain"),
    [("The  Cat's tail!", "cats tail"), ("an A-team", "ateam"), ("theatre", "theatre"), ("A", ""), ("“a”", "“ ”")],
)
def test_answers_are_normalized_as_in_the_official_script(text, plain):
    assert normalized(text) == plain


@pytest.mark.parametrize(
    ("prediction", "answer", "em", "f1"),
    [
        ("the red kite", "Red kite.", 1, 1),
        ("a red kite", "kite", 0, 2 / 3),  # 1 common word; precision 1/2, recall 1
        ("kite kite", "kite", 0, 2 / 3),  # a word counts as often as it stands in both
        ("", "", 1, 1),
        ("", "kite", 0, 0),
        ("the", "", 1, 1),  # nothing is left of an article
    ],
)
def test_exact_match_and_f1_of_one_answer(prediction, answer, em, f1):
    assert exact(prediction, answer) == em
    assert overlap(prediction, answer) == pytest.approx(f1)


def test_the_accepted_answer_that_fits_best_counts_and_none_means_empty():
    records = records_of(["in Oslo", "", "Rome"], [["Oslo", "in Oslo, Norway"], [], []])
    found = compute(["exact_match", "span_f1"], records)
    # row 1: 2·2/(2+3) = 0.8 beats 2·1/(2+1); row 2 is right, row 3 answers what has no answer
    assert found == pytest.approx({"exact_match": 1 / 3, "span_f1": 0.6})


def option(row_id, guess, label):
    return {"id": row_id, "prediction": guess, "label": label, "scores": {"no": 0.5, "yes": 0.5}}


OPTIONS = [
    option("dev-0-0-0", "yes", "yes"), option("dev-0-0-1", "no", "no"),  # right
    option("dev-0-1-0", "yes", "yes"), option("dev-0-1-1", "yes", "no"),  # half right
    option("dev-1-1-0", "no", "no"),  # right: another paragraph's question 1
    option("dev-1-2-0", "no", "yes"),  # wrong
]  # fmt: skip


def test_a_question_is_right_when_all_its_answers_are(tmp_path):
    found = compute(["question_exact_match", "f1"], OPTIONS[::-1], ["no", "yes"])
    # 2 of 4 questions; of the "yes" 2 are found, 1 is guessed wrongly, 1 is missed
    assert found == pytest.approx({"question_exact_match": 0.5, "f1": 2 / 3})
    unlabelled = option("dev-0-0-2", "yes", None)
    assert compute(["question_exact_match"], [*OPTIONS, unlabelled]) == {"question_exact_match": 0.5}
    path = tmp_path / "multirc.dev.jsonl"
    write_records(path, OPTIONS)
    reported = score(path)
    assert reported["question_exact_match"] == 0.5 and reported["rows"] == 6


def test_questions_need_ids_that_distinguish_them():
    rows = [{**each, "id": f"dev-{number}"} for number, each in enumerate(OPTIONS)]
    with pytest.raises(DataError, match=r"question_exact_match: row 'dev-0'.* ids `paragraph-question-answer`"):
        compute(["question_exact_match"], rows)
    assert "question_exact_match" not in applicable(rows)


def ranked(relevance, order):
    names = [str(place) for place in range(len(relevance))]
    return {
        "id": "q",
        "prediction": [names[place] for place in order],
        "label": dict(zip(names, map(float, relevance), strict=True)),
        "scores": {},
    }


def test_rankings_by_hand():
    records = [ranked([0, 1, 0, 1], [0, 1, 2, 3]), ranked([1, 0], [0, 1])]
    found = compute(["accuracy_at_1", "mrr", "map", "ndcg"], records)
    first = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert found == pytest.approx({"accuracy_at_1": 0.5, "mrr": 0.75, "map": 0.75, "ndcg": (first + 1) / 2})


def test_map_and_ndcg_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    records, averages, gains = [], [], []
    for _ in range(30):
        relevance, scores = rng.integers(0, 3, 8), rng.permutation(8)
        relevance[rng.integers(8)] = 1
        records.append(ranked(relevance, np.argsort(-scores)))
        averages.append(average_precision_score(relevance > 0, scores))
        gains.append(ndcg_score([relevance], [scores]))
    assert compute(["map", "ndcg"], records) == pytest.approx({"map": np.mean(averages), "ndcg": np.mean(gains)})


def test_a_ranking_has_each_candidate_once():
    """With a relevant one twice, as in a file of other tools, the precision at its second rank counted again."""
    twice = {**ranked([1, 0], [0, 1]), "prediction": ["0", "0", "1"]}
    with pytest.raises(DataError, match=r"row 'q'.*It needs a ranked list of candidates"):
        compute(["map"], [twice])


def test_records_of_another_kind_are_reported_by_id():
    with pytest.raises(DataError, match=r"row '0'.*It needs a ranked list of candidates"):
        compute(["map"], records_of(["yes"], ["no"]))
    assert applicable(records_of([["O"]], [["B-PER"]])) == [
        "entity_f1", "entity_precision", "entity_recall", "token_accuracy",
    ]  # fmt: skip
