"""Labels of a table → the labels of a task."""

import pytest

from mtdnn.rows.example import declared


@pytest.mark.parametrize(
    ("label", "known", "found"),
    [
        ("1.0", ["0", "1"], "1"),
        ("True", ["true", "false"], "true"),
        ("joie\u0301", ["joi\u00e9"], "joi\u00e9"),
        ("joi\u00e9", ["joie\u0301"], "joie\u0301"),
        ("joi\u00e9", ["joie", "joie\u0301x"], "joi\u00e9"),
        ("\uff11", ["1"], "\uff11"),  # another character, not another way to write it
        ("x", ["y"], "x"),
    ],
)
def test_a_label_is_the_declared_one_that_is_the_same_text(label, known, found):
    assert declared(label, known) == found
