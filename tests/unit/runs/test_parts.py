"""The parts of a run that are made from its configuration: the context of its precision."""

import pytest
import torch

from mtdnn.config.run import load_run_config
from mtdnn.errors import DataError
from mtdnn.runs import parts
from mtdnn.runs.parts import autocast_as_written, autocast_of, train_stores
from mtdnn.tokens.loading import load_tokenizer


def config_of(precision, products):
    given = {"tasks": "tasks.yml", "data": "data", "encoder": "encoder", "output": "output"}
    return load_run_config(None, {**given, "precision": precision, "execution": {"products": products}})


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("products", ["fast", "torch"])
@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bf16_is_left_only_on_a_cpu_that_is_slower_in_it(monkeypatch, precision, products, faster, device):
    monkeypatch.setattr(parts, "bf16_is_faster", lambda: faster)
    config, where = config_of(precision, products), torch.device(device)
    in_bf16 = precision == "bf16" and (faster or products == "torch" or device == "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        assert parts.keeps_precision(config, where)
        return
    with autocast_of(config, where)():
        assert torch.is_autocast_enabled(device) == in_bf16
    with autocast_as_written(config, where)():
        assert torch.is_autocast_enabled(device) == (precision == "bf16")


def test_a_bf16_run_has_the_numbers_of_float32_where_that_is_faster(monkeypatch):
    monkeypatch.setattr(parts, "bf16_is_faster", lambda: False)
    x, found = torch.randn(3, 5), {}
    for precision in ("float32", "bf16"):
        with autocast_of(config_of(precision, "fast"), torch.device("cpu"))():
            found[precision] = x @ x.t()
    assert torch.equal(found["bf16"], found["float32"])


def test_all_tasks_whose_rows_are_not_prepared_are_in_one_report(project, encoder):
    given = {"tasks": str(project.definitions), "data": str(project.out), "encoder": str(encoder), "output": "output"}
    with pytest.raises(DataError) as caught:
        train_stores(load_run_config(None, given), project.tasks, load_tokenizer(str(encoder)))
    assert [line.split(":")[0] for line in caught.value.lines] == [
        str(project.out / name / "train") for name in project.tasks
    ]
