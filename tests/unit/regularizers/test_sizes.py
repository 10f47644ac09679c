"""Sizes of perturbations, alone or in units of the word embeddings; test_proximal.py has parts of a run."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from mtdnn.regularizers.sizes import RelativeSize, Size, SizeOrZero, resolved


class Sizes(BaseModel):
    size: Size = 1.0
    other: SizeOrZero = 1.0


def test_a_size_is_a_number_or_relative() -> None:
    assert Sizes(size="1e-5").size == 1e-5  # YAML reads 1e-5 as a word
    assert Sizes(other=0).other == 0
    assert Sizes(size={"relative": 0.002}).size == RelativeSize(relative=0.002)
    assert resolved(RelativeSize(relative=0.002), 0.057) == pytest.approx(1.14e-4)


@pytest.mark.parametrize(
    "value", [-1e-5, 0, "small", True, float("nan"), float("inf"), 10**400, {"relative": -1}, {"of": 1}]
)
def test_no_other_size_is_taken(value: object) -> None:
    with pytest.raises(ValidationError, match="expected"):
        Sizes(size=value)
