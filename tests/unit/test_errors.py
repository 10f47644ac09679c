"""Faults are one line each: place, what was found, what to do."""

import errno
import pickle

import pytest

from mtdnn.errors import (
    ConfigError,
    DataError,
    MtdnnError,
    Place,
    did_you_mean,
    fault,
    first_line,
    is_full_disk,
    unknown,
)


def test_a_fault_reads_place_key_found_and_fix():
    assert str(fault(Place("a.yml", 3), "mnli.loss", "unknown loss 'mse'", "Use cross_entropy.")) == (
        "a.yml:3: mnli.loss: unknown loss 'mse'. Use cross_entropy."
    )


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (("", "", "found"), "found"),
        (("a.yml", "", "found"), "a.yml: found"),
        (("", "key", "found"), "key: found"),
        (("mnli", "mnli", "found"), "mnli: found"),
        (("mnli", "mnli.loss", "found"), "mnli: mnli.loss: found"),
        (("a.yml", "key", "found."), "a.yml: key: found."),
        (("a.yml", "key", "found.", "Fix it."), "a.yml: key: found. Fix it."),
        (("", "", "unknown. Did you mean 'x'?", "Fix it."), "unknown. Did you mean 'x'? Fix it."),
    ],
)
def test_empty_parts_leave_no_punctuation_behind(parts, line):
    assert str(fault(*parts)) == line


def test_several_faults_are_one_error_reported_line_by_line():
    error = ConfigError(["first", "second"])
    assert error.lines == ("first", "second")
    assert str(error) == "first\nsecond"


def test_one_fault_may_be_given_as_a_string():
    assert DataError("only").lines == ("only",)


def test_both_kinds_are_what_the_command_line_catches():
    assert issubclass(ConfigError, MtdnnError)
    assert issubclass(DataError, MtdnnError)


def test_the_nearest_name_is_offered_only_when_one_is_near():
    assert did_you_mean("acuracy", ["accuracy", "f1"]) == " Did you mean 'accuracy'?"
    assert did_you_mean("zebra", ["accuracy", "f1"]) == ""
    assert did_you_mean("zebra", []) == ""
    assert did_you_mean("focal", ["binary_cross_entropy", "binary_focal"]) == " Did you mean 'binary_focal'?"


@pytest.mark.parametrize(
    ("word", "near"), [("SMART", "smart"), ("Smrt", "smart"), ("F1", "f1"), ("no", "NO"), ("NOO", "NO")]
)
def test_the_nearest_name_is_found_whatever_the_case(word, near):
    assert did_you_mean(word, ["smart", "f1", "NO", "r_drop"]) == f" Did you mean '{near}'?"


def test_of_names_that_differ_in_case_alone_the_one_of_most_equal_letters_is_offered():
    assert did_you_mean("Pers", ["PER", "Per", "per"]) == " Did you mean 'Per'?"


def test_an_unknown_word_lists_the_known_ones():
    assert unknown("metric", "acuracy", iter(["accuracy", "f1"])) == (
        "unknown metric 'acuracy'; known: accuracy, f1. Did you mean 'accuracy'?"
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors 0.8
        Exception('Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space" })'),  # 0.5
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 10496 vs 10416"),  # torch 2.13
        RuntimeError("basic_ios::clear: iostream error"),  # torch 2.13, to a file of limited size
    ],
)
def test_a_full_disk_is_known_whoever_reports_it(error):
    assert is_full_disk(error)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("shapes differ"), KeyError()])
def test_other_failures_are_no_full_disk(error):
    assert not is_full_disk(error)


def test_a_fault_is_a_record_that_editors_can_read():
    found = fault(Place("a.yml", 3), "mnli.loss", "unknown loss 'mse'", "Use cross_entropy.")
    assert found.as_dict() == {
        "place": "a.yml:3",
        "file": "a.yml",
        "line": 3,
        "key": "mnli.loss",
        "found": "unknown loss 'mse'",
        "fix": "Use cross_entropy.",
    }


def test_a_flag_becomes_the_key_it_sets_when_a_cell_of_a_study_gave_it():
    given, in_file = fault("--optimizer.lr", "", "-1: too small"), fault(Place("tasks.yml", 3), "rte.loss", "unknown")
    assert str(given.within("study.yml: fine (seed 1)")) == "study.yml: fine (seed 1): optimizer.lr: -1: too small"
    assert str(in_file.within("study.yml: fine")) == "study.yml: fine: tasks.yml:3: rte.loss: unknown"


def test_control_characters_are_shown_and_not_sent():
    found = fault(Place("a\x1b[31m.yml", 1), "key", "a line\nbreak and \u202e reversed text")
    assert str(found) == "a\\x1b[31m.yml:1: key: a line\\nbreak and \\u202e reversed text"


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_an_error_with_a_wrong_keyword_is_a_config_error(kind):
    for keywords, line in [
        ({"fault": "x"}, f"{kind.__name__}(): unknown keyword 'fault'; known: faults. Did you mean 'faults'?"),
        ({}, f"{kind.__name__}(): faults: is missing. Give it."),
    ]:
        with pytest.raises(ConfigError) as caught:
            kind(**keywords)
        assert caught.value.lines == (line,)
    assert kind(faults="x").lines == kind("x").lines == pickle.loads(pickle.dumps(kind("x"))).lines == ("x",)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  it is broken.\nmore of it"), "it is broken"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 301), "x" * 300 + "…"),
    ],
)
def test_the_first_line_of_the_error_of_another_library_is_part_of_ours(error, line):
    assert first_line(error) == line
