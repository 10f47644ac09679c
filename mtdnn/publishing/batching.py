"""Requests that wait at the same time, computed together in batches of a limited size.

There is no thread of its own: each request comes in a thread of the server, and one of these computes for all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

A = TypeVar("A")


@dataclass(eq=False)
class Question(Generic[A]):
    """What one request asks, and its answer.

    Attributes:
        tasks: names.
        rows: as the request has them.
        form: questions of equal form can be computed together; None: alone.
        answer: set once it is computed.
        arrived: seconds, of a clock that never moves back.
        tokens: of the rows; None: not counted yet.
    """

    tasks: tuple[str, ...]
    rows: Sequence[Any]
    form: Hashable | None
    answer: Future[A] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    tokens: int | None = None


class Batcher(Generic[A]):
    """Answers questions in the order of their arrival, those of equal form that wait at the same time together.

    Args:
        compute: questions of one form → their answers, in their order; one call at a time.
        tokens: tokens of a question's rows; no call while `compute` is running.
        wait_seconds: how long the oldest question waits for others, from its arrival; 0: not at all. Those that arrive
            while others are computed are together anyway.
        max_tokens: of a batch; a question with more is computed alone.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Question[A]]], Sequence[A]],
        tokens: Callable[[Question[A]], int],
        *,
        wait_seconds: float,
        max_tokens: int,
    ) -> None:
        self.compute, self.tokens, self.wait_seconds, self.max_tokens = compute, tokens, wait_seconds, max_tokens
        self._waiting: list[Question[A]] = []
        self._arrival, self._turn = threading.Condition(), threading.Lock()

    def answer(self, question: Question[A]) -> A:
        """The answer to a question; the calling thread computes, for all that wait, or waits until another one has.

        Raises:
            Exception: what `compute` raised for this question alone.
        """
        with self._arrival:
            self._waiting.append(question)
            self._arrival.notify()
        while not question.answer.done():
            with self._turn:
                if not question.answer.done():
                    self._answer_all(self._take())
        return question.answer.result()

    def _take(self) -> list[Question[A]]:
        """The oldest question and those to be computed with it, which wait no longer."""
        with self._arrival:
            until = self._waiting[0].arrived + self.wait_seconds
            batch, full = self._fitting()
            while not full and (left := until - time.monotonic()) > 0:
                self._arrival.wait(left)
                batch, full = self._fitting()
            self._waiting = [each for each in self._waiting if each not in batch]
        return batch

    def _fitting(self) -> tuple[list[Question[A]], bool]:
        """The oldest question with those of its form that fit in a batch, and whether there is no room for more."""
        batch = self._waiting[:1]
        total, form = self._size(batch[0]), batch[0].form
        if form is None:
            return batch, True
        for each in self._waiting[1:]:
            if each.form == form:
                total += self._size(each)
                if total > self.max_tokens:
                    return batch, True
                batch.append(each)
        return batch, total >= self.max_tokens

    def _size(self, question: Question[A]) -> int:
        if question.tokens is None:
            try:
                question.tokens = self.tokens(question)
            except Exception:  # `compute` reports what is wrong with the rows, to this question alone
                question.form, question.tokens = None, self.max_tokens + 1
        return question.tokens

    def _answer_all(self, batch: Sequence[Question[A]]) -> None:
        """Compute a batch; if that is not possible, each of its questions, so that an error is that of its own rows."""
        try:
            answers = self.compute(batch)
        except Exception as error:  # whatever it is, the thread of the question raises it
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for each in batch:
                self._answer_all([each])
            return
        for each, answer in zip(batch, answers, strict=True):
            each.answer.set_result(answer)
