"""Functions in processes that take turns. The processes import this file, so nothing heavy is imported here."""

import os
from contextlib import contextmanager

import pytest

from benchmarks.processes import taking_turns
from benchmarks.rounds import interleaved


@contextmanager
def counting(way, start):
    """Counts upwards from `start`; an error for the way `broken`."""
    count = start

    def next_count():
        nonlocal count
        count += 1
        if way == "broken":
            raise RuntimeError("broken")
        return way, count, os.getpid()

    yield next_count


def test_processes_take_turns_and_keep_their_state():
    with taking_turns(counting, ["a", "b"], 10) as ways:
        rounds = interleaved(ways, 2, warm_up=False)
    assert [found[:2] for found in rounds["a"]] == [("a", 11), ("a", 12)]
    assert [found[:2] for found in rounds["b"]] == [("b", 11), ("b", 12)]
    processes = {found[2] for found in (*rounds["a"], *rounds["b"])}
    assert len(processes) == 2 and os.getpid() not in processes
    for process in processes:  # both have ended
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_process_that_fails_ends_the_turns(capfd):
    with taking_turns(counting, ["a", "broken"], 0) as ways, pytest.raises((EOFError, ConnectionError)):
        interleaved(ways, 1)
    assert "RuntimeError: broken" in capfd.readouterr().err
