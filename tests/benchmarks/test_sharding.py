"""What the benchmark of sharding counts, in a process that holds the whole model."""

import pytest

from benchmarks.sharding import held_after_a_step


@pytest.mark.parametrize("teacher", [False, True])
def test_a_process_holds_a_gradient_and_two_moments_for_each_weight(teacher):
    """Embeddings that no token of the batch has get a gradient of zeros; AdamW has a step count of 4 bytes per weight.

    The tiny shape has 2 layers of 16 tensors, 5 of embeddings, and a head of 4.
    """
    found = held_after_a_step("tiny", sharded=False, teacher=teacher)
    weights = found["weights"]
    assert found == {
        "weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights + 4 * (2 * 16 + 5 + 4),
        "teacher": weights if teacher else 0,
        "gathered": 0,
    }
