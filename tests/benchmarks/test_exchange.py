"""Every way to exchange gradients takes the same step; the table of what that takes. No time decides anything here."""

import pytest
import torch

from benchmarks import exchange


class Alone:
    """The accelerator of a process that is alone."""

    device, num_processes, process_index, is_main_process = torch.device("cpu"), 1, 0, True


@pytest.fixture
def one_process(monkeypatch):
    """Processes of one, which DistributedDataParallel has no use for."""
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda model, **options: model)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *given, **options: None)


def test_every_way_takes_the_same_steps(one_process, monkeypatch):
    """Without dropout; sharding needs processes."""
    made = exchange.make_model

    def without_dropout(shape):
        model = made(shape)
        for module in model.modules():
            if isinstance(getattr(module, "p", None), float):
                module.p = 0.0
        return model

    models = []
    monkeypatch.setattr(exchange, "make_model", lambda shape: models.append(without_dropout(shape)) or models[-1])
    ways = [way for way in exchange.WAYS if way != exchange.SHARDED]
    for way in ways:
        step, counter = exchange.steps_of(way, "tiny", exchange.Rows(4, 8, 0), Alone())
        found = exchange.turn(step, counter, 2)
        assert found["exchanges"] == 0 and found["seconds"] > 0
    first, *others = ([weight.detach() for weight in model.parameters()] for model in models)
    assert len(others) == len(ways) - 1
    for other in others:
        for one, two in zip(first, other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)  # moves of 1e-5, sums in another order


def test_ratios_are_turn_by_turn_to_the_first_way():
    def turns(*seconds):
        return [{"seconds": each, "processor": each / 2, "exchanges": 3.0} for each in seconds]

    lines = exchange.report({exchange.AFTER: turns(1.0, 2.0), exchange.PLAIN: turns(2.0, 2.0)}).splitlines()
    assert lines[2].startswith("| after the backward pass | 3 | 1.500 | 1.00 (1.00–1.00) | 0.750 |")
    assert lines[3] == "| DistributedDataParallel |  | 2.000 | 1.50 (1.00–2.00) | 1.000 | 1.50 (1.00–2.00) |"
