"""A stand-in for the module `ray`: its tasks run in this process, one by one, when they are waited for.

What is sent to a task is pickled, as Ray does, and what a task raises arrives as a RayTaskError.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """The error of Ray itself."""


class RayTaskError(RayError):
    """The error of a task."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Handle:
    """A reference to a value, or to what a task returns."""

    numbers = itertools.count()
    values: dict[int, Callable[[], Any]] = {}

    def __init__(self, value: Callable[[], Any]) -> None:
        self.number = next(self.numbers)
        self.values[self.number] = value

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self.number == other.number


exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)


def is_initialized() -> bool:
    """Always: there is nothing to start."""
    return True


def cluster_resources() -> dict[str, float]:
    """Two CPUs."""
    return {"CPU": 2.0}


def put(value: Any) -> Handle:
    """A reference to a copy of the value."""
    pickled = pickle.dumps(value)
    return Handle(lambda: pickle.loads(pickled))


def get(handle: Handle) -> Any:
    """The value, or what the task returned or raised."""
    return Handle.values[handle.number]()


def remote(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that gives a function the method `remote`."""

    def decorate(function: Callable[..., Any]) -> Any:
        def submit(*given: Any) -> Handle:
            pickled = pickle.dumps((function, given))

            def run() -> Any:
                called, arguments = pickle.loads(pickled)
                try:
                    return called(*arguments)
                except Exception as error:
                    raise RayTaskError(error) from error

            return Handle(run)

        return SimpleNamespace(remote=submit)

    return decorate


def wait(
    handles: Sequence[Handle], *, num_returns: int = 1, timeout: float | None = None
) -> tuple[list[Handle], list[Handle]]:
    """The first of the handles, whose task `get` will run, and the others."""
    return [*handles[:num_returns]], [*handles[num_returns:]]


def cancel(handle: Handle, *, force: bool = False) -> None:
    """Nothing: a task that is not waited for is not run."""
