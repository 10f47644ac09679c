"""A calibrated task has the same probabilities by `mtdnn predict`, from an ONNX graph, and served."""

import contextlib

import pytest
import torch

from mtdnn import open_run
from mtdnn.cli.main import main
from mtdnn.metrics.records import read_records
from mtdnn.publishing.onnx_run import open_any
from mtdnn.publishing.serve import Request, answers_of, question_of
from tests.reference.small_world import PREPRO, make_world, succeed

PAIRS = [["A kite.", "A boat."], ["The red kite flies.", "The barn."], ["A boat.", "A boat."]]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run of a calibrated task, its graph, and its predictions of PAIRS by the command, in `nli.jsonl`."""
    world = make_world(tmp_path_factory.mktemp("calibrated") / "world")
    tasks = world / "tasks.yml"
    tasks.write_text(tasks.read_text().replace("nli:\n", "nli:\n  calibrate: true\n", 1))
    (world / "rows.tsv").write_text("".join(f"{row}\t\t{one}\t{other}\n" for row, (one, other) in enumerate(PAIRS)))
    with contextlib.chdir(world):
        succeed(PREPRO)
        succeed("train run.yml --optimizer.lr 0.05")
        succeed("predict run --task nli --input rows.tsv --output nli.jsonl")
        assert main(["export", "run", "--task", "nli", "--format", "onnx", "--output", "graph"]) == 0
    return world


def scores_of(records):
    return torch.tensor([list(record["scores"].values()) for record in records])


def test_the_temperature_is_fitted_and_changes_probabilities(world):
    (temperature,) = {record["temperature"] for record in read_records(world / "nli.jsonl")}
    run = open_run(world / "run")
    assert temperature != 1 and temperature == float(run.model.head_of("nli").temperature)
    run.model.head_of("nli").temperature.fill_(1)
    plain = scores_of(run.predict("nli", PAIRS)["nli"])
    assert not torch.allclose(plain, scores_of(read_records(world / "nli.jsonl")), atol=1e-3)


@pytest.mark.parametrize("place", ["run", "graph"])
def test_a_run_and_its_graph_are_served_with_the_probabilities_of_predict(world, place):
    """A graph's logits differ by up to 1e-4, and a temperature of 0.05, the smallest, makes 20 times that of them."""
    opened, expected = open_any(world / place), read_records(world / "nli.jsonl")
    (answer,) = answers_of(opened, [question_of(opened, Request(rows=PAIRS, tasks=["nli"]))])
    assert [each["temperature"] for each in answer["nli"]] == [each["temperature"] for each in expected]
    torch.testing.assert_close(scores_of(answer["nli"]), scores_of(expected), atol=2e-3, rtol=0)
    assert [each["prediction"] for each in answer["nli"]] == [each["prediction"] for each in expected]


def test_the_command_predicts_from_the_graph_as_from_the_run(world, monkeypatch):
    monkeypatch.chdir(world)
    succeed("predict graph --task nli --input rows.tsv --output graph.jsonl")
    found, expected = (read_records(world / name) for name in ("graph.jsonl", "nli.jsonl"))
    torch.testing.assert_close(scores_of(found), scores_of(expected), atol=2e-3, rtol=0)
