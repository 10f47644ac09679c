"""The moving average of a run's weights: its numbers, what it stores, and that a resumed run has the same bits."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from mtdnn.config.run import load_run_config
from mtdnn.errors import ConfigError
from mtdnn.runs.folder import RunFolder
from mtdnn.runs.setup import Setup
from mtdnn.runs.train import train
from mtdnn.training.average import MovingAverage
from mtdnn.training.checkpoint import read_training
from tests.reference.small_world import make_world
from tests.reference.tiny import make_model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("average") / "world")


def weights_of(folder, name="last"):
    return load_file(folder / name / "model.safetensors")


def trained(world, monkeypatch, output, **options):
    monkeypatch.chdir(world)
    train("run.yml", output=str(output), progress=False, **options)
    return output


def test_the_average_is_that_of_the_formula():
    model = make_model()
    average, expected = MovingAverage(model, 0.5), [each.detach().clone() for each in model.parameters()]
    generator = torch.Generator().manual_seed(1)
    for step in range(1, 13):
        with torch.no_grad():
            for each in model.parameters():
                each.add_(torch.randn(each.shape, generator=generator, dtype=each.dtype))
        average.after_step(model)
        decay = min(0.5, step / (9 + step))  # 0.1, 0.18, … and from the ninth step on 0.5
        expected = [
            decay * old + (1 - decay) * new.detach() for old, new in zip(expected, model.parameters(), strict=True)
        ]
    for found, wanted in zip(average.model.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted)  # another order of the same additions
    assert not any(each.requires_grad for each in average.model.parameters())


def test_pytorch_s_averaged_model_is_the_same(world, monkeypatch, tmp_path):
    from torch.optim.swa_utils import AveragedModel

    monkeypatch.chdir(world)
    setup = Setup.of(load_run_config("run.yml", {"ema": 0.05, "output": str(tmp_path / "run")}))  # below every β_t
    reference = AveragedModel(setup.model, avg_fn=lambda old, new, _: 0.05 * old + 0.95 * new)
    reference.n_averaged += 1
    setup.trainer(
        RunFolder(tmp_path / "run"), on_step=lambda progress, means: reference.update_parameters(setup.model)
    ).train()
    for found, wanted in zip(setup.average.model.parameters(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_run_itself_is_unchanged_and_the_average_is_stored(world, monkeypatch, tmp_path):
    plain = trained(world, monkeypatch, tmp_path / "plain")
    averaged = trained(world, monkeypatch, tmp_path / "averaged", ema=0.9)
    own = read_training(averaged / "checkpoints" / "step-6")["average"]["weights"]
    last = weights_of(plain)
    assert all(torch.equal(own[name], last[name]) for name in own)
    assert any(not torch.equal(weights_of(averaged)[name], last[name]) for name in own)
    stored, step = weights_of(averaged), load_file(averaged / "checkpoints" / "step-6" / "model.safetensors")
    assert all(torch.equal(stored[name], step[name]) for name in stored)


ADAPTER = {"adapter": {"name": "lora", "rank": 2, "scope": "task"}}


@pytest.mark.parametrize(
    "options",
    [{}, {"proximal": None, "regularizer": "smart"}, ADAPTER, {"tasks_per_step": "all", "balance": "uncertainty"}],
    ids=["proximal", "smart", "adapter", "balanced"],
)
def test_a_resumed_run_ends_with_the_same_bits(world, monkeypatch, tmp_path, options):
    options = {"ema": 0.9, **options}
    whole = trained(world, monkeypatch, tmp_path / "whole", **options)
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    for name in ("best", "last", "checkpoints/step-6"):
        shutil.rmtree(broken / name)
    text = (broken / "run.yml").read_text()
    (broken / "run.yml").write_text(text.replace(str(whole), str(broken)))
    trained(world, monkeypatch, broken, resume=True, **options)
    for name in ("last", "checkpoints/step-6"):
        first, second = (weights_of(folder, name) for folder in (whole, broken))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_with_an_adapter_only_trained_weights_are_averaged_and_stored(world, monkeypatch, tmp_path):
    folder = trained(world, monkeypatch, tmp_path / "run", ema=0.9, **ADAPTER)
    assert all("lora_" in name or name.startswith("heads.") for name in weights_of(folder))
    setup = Setup.of(load_run_config("run.yml", {"ema": 0.9, "output": str(tmp_path / "other"), **ADAPTER}))
    frozen = {id(each) for each in setup.model.parameters() if not each.requires_grad}
    assert frozen <= {id(each) for each in setup.average.model.parameters()}


@pytest.mark.parametrize("value", [0, 1, 1.5, -0.1])
def test_another_number_is_refused(value):
    with pytest.raises(ConfigError, match="ema"):
        load_run_config(None, {"tasks": "a", "data": "b", "encoder": "c", "output": "d", "ema": value})
