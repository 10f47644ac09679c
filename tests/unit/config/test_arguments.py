"""Arguments of public functions: unknown and missing keywords, and values of another type, are reported."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from mtdnn.config.arguments import keywords_checked, wrong_type
from mtdnn.errors import ConfigError


def test_a_function_that_checks_its_keywords_refuses_unknown_and_missing_ones_together():
    @keywords_checked(more=lambda: ["rate", "size"])
    def bake(cake, *, oven, minutes=10, **options):
        return cake, oven, minutes, options

    assert bake("tart", oven="hot", rate=1, **{"size.inner": 2}) == ("tart", "hot", 10, {"rate": 1, "size.inner": 2})
    assert bake(cake="tart", oven="hot", minutes=3)[2] == 3
    with pytest.raises(ConfigError) as caught:
        bake("tart", minute=3, **{"rat.inner": 1})
    known = "known: cake, oven, minutes, rate, size."
    assert caught.value.lines == (
        f"{bake.__qualname__}(): unknown keyword 'minute'; {known} Did you mean 'minutes'?",
        f"{bake.__qualname__}(): unknown keyword 'rat.inner'; {known} Did you mean 'rate'?",
        f"{bake.__qualname__}(): oven: is missing. Give it.",
    )


@pytest.mark.parametrize(
    ("value", "annotation", "found"),
    [
        (1, float, ""),
        (0.5, float, ""),
        (True, int, ""),
        ("1", float, "is of type str; expected a number"),
        (0.5, int | None, "is of type float; expected a whole number or None"),
        ("rte", Sequence[str], ""),
        (3, Sequence[str], "is of type int; expected a list"),
        ([], Literal["here"], ""),
        (object(), Any, ""),
    ],
)
def test_the_type_of_a_value_is_compared_with_an_annotation(value, annotation, found):
    assert wrong_type(value, annotation) == found
