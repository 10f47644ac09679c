"""One seed, many independent streams, the same everywhere."""

import hashlib
import subprocess
import sys

import pytest
import torch

from mtdnn.seeding import (
    derive_seed,
    numpy_generator,
    preserved_default_generators,
    seed_default_generators,
    torch_generator,
)


def test_a_seed_is_the_start_of_the_names_sha256():
    digest = hashlib.sha256(b"7\x1forder\x1f3").digest()
    assert derive_seed(7, "order", 3) == int.from_bytes(digest[:8], "little") >> 1


def test_seeds_fit_where_numpy_and_torch_take_them():
    assert all(0 <= derive_seed(seed, "order") < 2**63 for seed in range(100))


def test_a_seed_is_the_same_in_another_process_with_another_hash_seed():
    code = "from mtdnn.seeding import derive_seed; print(derive_seed(7, 'order', 3))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == derive_seed(7, "order", 3)


@pytest.mark.parametrize("other", [(8, "order", 3), (7, "noise", 3), (7, "order", 4), (7, "order")])
def test_another_seed_or_name_is_another_stream(other):
    assert derive_seed(*other) != derive_seed(7, "order", 3)


def test_names_are_not_run_together():
    assert derive_seed(1, "ab", "c") != derive_seed(1, "a", "bc")


def test_generators_of_one_name_draw_the_same_numbers():
    assert (numpy_generator(1, "order").random(5) == numpy_generator(1, "order").random(5)).all()
    first, second = (torch.rand(5, generator=torch_generator(1, "noise")) for _ in range(2))
    assert torch.equal(first, second)


def test_default_generators_follow_the_name_and_not_the_draws_before():
    seed_default_generators(1, "dropout", 4)
    first = torch.rand(3)
    torch.rand(100)
    seed_default_generators(1, "dropout", 4)
    assert torch.equal(torch.rand(3), first)


def test_draws_inside_preserved_generators_leave_no_trace():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with preserved_default_generators():
        torch.rand(100)
    assert torch.equal(torch.rand(3), expected)
