"""Questions that wait at the same time are answered together, in order, up to a size; an error is that of one."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mtdnn.publishing.batching import Batcher, Question

WAIT_SECONDS = 0.3


class Doubling:
    """Answers a question about numbers with their doubles; it keeps the sizes of its batches.

    Args:
        held: its first call waits for this, so that others arrive meanwhile.
    """

    def __init__(self, held=None):
        self.batches, self.held = [], held

    def __call__(self, questions):
        self.batches.append([list(each.rows) for each in questions])
        if self.held is not None:
            self.held.wait(10)
        if any("bad" in each.rows for each in questions):
            raise ValueError(f"bad row among {sum(len(each.rows) for each in questions)}")
        return [[2 * row for row in each.rows] for each in questions]


def batcher_of(compute, *, wait_seconds=0.0, max_tokens=100, tokens=lambda question: len(question.rows)):
    return Batcher(compute, tokens, wait_seconds=wait_seconds, max_tokens=max_tokens)


def asked_meanwhile(batcher, compute, rows, forms=None):
    """The answers to questions, all but the first of which arrive while the first is computed, in this order."""
    questions = [Question((), each, (forms or {}).get(number, "one")) for number, each in enumerate(rows)]
    with ThreadPoolExecutor(len(rows)) as pool:
        answers = []
        for number, each in enumerate(questions):
            answers.append(pool.submit(batcher.answer, each))
            until = time.monotonic() + 10
            while not (compute.batches if number == 0 else each in batcher._waiting):
                assert time.monotonic() < until
                time.sleep(0.001)
        compute.held.set()
    return answers


def test_those_that_arrive_while_another_is_computed_are_one_batch():
    compute = Doubling(threading.Event())
    answers = asked_meanwhile(batcher_of(compute), compute, [[1], [2, 3], [4]])
    assert [each.result() for each in answers] == [[2], [4, 6], [8]]
    assert compute.batches == [[[1]], [[2, 3], [4]]]


def test_a_batch_has_no_more_tokens_than_allowed_and_a_larger_question_is_alone():
    compute = Doubling(threading.Event())
    rows = [[0], [1, 1], [2], [3], [4] * 5, [5]]
    answers = asked_meanwhile(batcher_of(compute, max_tokens=4), compute, rows)
    assert [each.result() for each in answers] == [[2 * row for row in each] for each in rows]
    assert compute.batches == [[[0]], [[1, 1], [2], [3]], [[4] * 5], [[5]]]


def test_questions_of_other_forms_and_of_none_wait_for_their_turn():
    compute = Doubling(threading.Event())
    rows, forms = [[0], [1], [2], [3], [4], [5]], {2: "other", 3: None, 4: "other", 5: None}
    answers = asked_meanwhile(batcher_of(compute), compute, rows, forms)
    assert [each.result() for each in answers] == [[0], [2], [4], [6], [8], [10]]
    assert compute.batches == [[[0]], [[1]], [[2], [4]], [[3]], [[5]]]


def test_an_error_is_that_of_one_question_alone():
    compute = Doubling(threading.Event())
    answers = asked_meanwhile(batcher_of(compute), compute, [[0], [1], ["bad"], [3, 3]])
    assert [answers[number].result() for number in (0, 1, 3)] == [[0], [2], [6, 6]]
    with pytest.raises(ValueError, match=r"bad row among 1$"):
        answers[2].result()


def test_rows_that_cannot_be_counted_are_computed_alone_and_report_it_themselves():
    def tokens(question):
        if "bad" in question.rows:
            raise TypeError("no text")
        return 1

    compute = Doubling(threading.Event())
    answers = asked_meanwhile(batcher_of(compute, tokens=tokens), compute, [[0], ["bad"], [2], [3]])
    assert [answers[number].result() for number in (0, 2, 3)] == [[0], [4], [6]]
    assert "bad row among 1" in str(answers[1].exception())
    assert compute.batches == [[[0]], [["bad"]], [[2], [3]]]


def test_the_oldest_waits_for_others_as_long_as_it_may_and_no_longer_than_needed():
    compute = Doubling()
    batcher = batcher_of(compute, wait_seconds=WAIT_SECONDS, max_tokens=2)
    started = time.monotonic()
    assert batcher.answer(Question((), [1], "one")) == [2]
    assert time.monotonic() - started >= WAIT_SECONDS
    long = batcher_of(compute, wait_seconds=60, max_tokens=2)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda row: long.answer(Question((), [row], "one")), (1, 2))) == [[2], [4]]
    assert sorted(map(sorted, compute.batches[1:])) == [[[1], [2]]]
