from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mtdnn.rows.summaries import quantiles

SHARES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 1001])
@pytest.mark.parametrize("different", [1, 5, 500])
def test_quantiles_of_counts_are_those_of_the_numbers_one_after_another(size, different):
    numbers = np.random.default_rng(size).integers(-different, different, size) / 4
    assert quantiles(Counter(numbers.tolist()), SHARES) == pytest.approx(np.quantile(numbers, SHARES).tolist())
