"""Arguments of public functions: unknown and missing keywords, values of another type, single words, `~` in paths."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from mtdnn.config.arguments import keywords_checked, takes_words, wrong_type
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


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        (Sequence[str], True),
        (Sequence[str] | None, True),
        (Optional[Sequence[str]], True),  # noqa: UP045  typing's own union
        (Sequence[Path | str] | None, True),
        (str | Sequence[str], False),
        (str | Path | Sequence[Mapping[str, Any]], False),
        (Sequence[int], False),
        (Mapping[str, str], False),
        (str, False),
        (Any, False),
    ],
)
def test_where_an_annotation_asks_for_several_words_is_asked_of_the_annotation(annotation, found):
    assert takes_words(annotation) is found


def test_a_single_word_where_several_are_expected_is_the_only_one(monkeypatch):
    @keywords_checked()
    def bake(cakes: Sequence[str] | None, *, pans: "Sequence[Path | str]" = (), oven: "str | Sequence[str]" = ""):
        return cakes, pans, oven

    monkeypatch.setenv("HOME", "/home/baker")
    assert bake("tart", pans="~/pan", oven="hot") == (["tart"], ["/home/baker/pan"], "hot")
    assert bake(["tart", "pie"]) == (["tart", "pie"], (), "")
    assert bake(None) == (None, (), "")
