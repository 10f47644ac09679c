"""Averages of runs' weights: their numbers, which runs a greedy one takes, and that the result is a run."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from mtdnn import open_run
from mtdnn.cli.main import main
from mtdnn.errors import ConfigError
from mtdnn.files import file_sha256
from mtdnn.runs.average import average_runs
from tests.reference.small_world import make_world, succeed


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three runs of one seed with different rates, and one with an adapter."""
    folder = make_world(tmp_path_factory.mktemp("averages") / "world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number in (1, 2, 3):
            succeed(f"train run.yml --output runs/{number} --optimizer.lr {number}e-3 --checkpoint_every never")
        for number in (1, 2):
            adapter = "--adapter lora --adapter.rank 2 --adapter.scope task"
            succeed(f"train run.yml --output runs/lora{number} --optimizer.lr {number}e-2 {adapter}")
    return folder


@pytest.fixture
def there(world, monkeypatch):
    monkeypatch.chdir(world)
    return world


def weights_of(folder):
    return load_file(folder / "best" / "model.safetensors")


def test_the_uniform_average_is_the_mean_and_a_run_that_every_command_opens(there, tmp_path, capsys):
    assert main(["average", "runs/1", "runs/2", "runs/3", "--output", str(tmp_path / "mean")]) == 0
    assert "runs/2" in capsys.readouterr().out
    found, given = weights_of(tmp_path / "mean"), [weights_of(there / "runs" / str(number)) for number in (1, 2, 3)]
    for name, value in found.items():
        expected = torch.stack([each[name].double() for each in given]).mean(0)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)  # stored as float32
    run = open_run(tmp_path / "mean")
    assert run.predict("nli", [("A red kite flies.", "The kite flies.")])["nli"][0]["prediction"] in ("yes_", "no_")
    results = json.loads((tmp_path / "mean" / "results.json").read_text())
    assert {"nli", "like"} <= results.keys()
    succeed(f"evaluate {tmp_path / 'mean'}")
    succeed(f"export {tmp_path / 'mean'} --task nli --output {tmp_path / 'exported'}")
    made = json.loads((tmp_path / "mean" / "average.json").read_text())
    assert [each["run"] for each in made["ingredients"]] == ["runs/1", "runs/2", "runs/3"]


def test_a_run_averaged_with_its_copy_is_itself(there, tmp_path):
    shutil.copytree(there / "runs" / "1", tmp_path / "copy")
    average_runs([there / "runs" / "1", tmp_path / "copy"], tmp_path / "mean")
    found, given = weights_of(tmp_path / "mean"), weights_of(there / "runs" / "1")
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_greedy_starts_from_the_best_and_keeps_what_does_not_lower_the_score(there, tmp_path, monkeypatch):
    """With scores that are given: the second best run lowers that of the average, the third raises it."""
    from mtdnn.runs import average

    of_run = {"runs/1": 0.5, "runs/2": 0.7, "runs/3": 0.6}
    own = {name: weights_of(there / name) for name in of_run}

    def score(weights, run, stores):
        name = next(iter(weights))
        for key, value in of_run.items():
            if torch.equal(weights[name], own[key][name]):
                return value
        two = {"runs/3": 0.65, "runs/1": 0.8}  # with the best
        best = own["runs/2"][name].double()
        means = {key: ((best + own[key][name].double()) / 2).to(weights[name].dtype) for key in two}
        return next((two[key] for key, value in means.items() if torch.equal(weights[name], value)), 0.0)

    monkeypatch.setattr(average, "_score", score)
    made = average_runs(list(of_run), tmp_path / "soup", method="greedy")
    assert [(each.run, each.used) for each in made.ingredients] == [
        ("runs/2", True), ("runs/3", False), ("runs/1", True),
    ]  # fmt: skip
    assert made.score == 0.8


def test_a_greedy_average_is_no_worse_on_dev_than_the_best_run(there, tmp_path):
    made = average_runs(["runs/1", "runs/2", "runs/3"], tmp_path / "soup", method="greedy")
    assert made.score >= max(each.score for each in made.ingredients)
    assert made.ingredients[0].used


def test_adapters_are_averaged_over_their_frozen_encoder(there, tmp_path):
    average_runs(["runs/lora1", "runs/lora2"], tmp_path / "mean")
    found = weights_of(tmp_path / "mean")
    assert all("lora_" in name or name.startswith("heads.") for name in found)
    open_run(tmp_path / "mean").predict("like", [("A red kite.",)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/1"], "two or more different runs"),
        (["runs/1", "runs/lora1"], "adapter: another one, or over another encoder, than runs/1"),
        (["runs/1", "nowhere"], "nowhere"),
    ],
)
def test_runs_that_do_not_fit_are_refused(there, tmp_path, capsys, words, message):
    assert main(["average", *words, "--output", str(tmp_path / "mean")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()


def test_another_activation_is_another_encoder_and_another_start_is_warned_of(there, tmp_path, capsys, caplog):
    """Weights of the same names and shapes were averaged, whatever they were weights of."""
    other = tmp_path / "other"
    shutil.copytree("runs/2", other)
    config = other / "run.yml"
    config.write_text(config.read_text().replace("encoder: ", "encoder: ./", 1))
    words = ["average", "runs/1", str(other), "--output"]
    assert main([*words, str(tmp_path / "mean")]) == 0
    assert "the runs started from different encoders" in caplog.text
    file = other / "best" / "encoder" / "config.json"
    file.write_text(file.read_text().replace('"gelu"', '"relu"'))
    sums = json.loads((other / "best" / "checksums.json").read_text())
    sums["encoder/config.json"] = file_sha256(file)
    (other / "best" / "checksums.json").write_text(json.dumps(sums))
    assert main([*words, str(tmp_path / "again")]) == 2
    assert "encoder: another encoder or tokenizer than in runs/1/best" in capsys.readouterr().err


def test_a_folder_with_a_run_is_not_overwritten(there, tmp_path):
    average_runs(["runs/1", "runs/2"], tmp_path / "mean")
    with pytest.raises(ConfigError, match=r"already contains a run.* Remove it, or name another --output\."):
        average_runs(["runs/1", "runs/2"], tmp_path / "mean")
