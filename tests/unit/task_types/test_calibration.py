"""Calibration of classification: the temperature, where it is stored, and what predictions and exports make of it."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mtdnn import open_run
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.jobs import block_faults
from mtdnn.metrics.probabilities import fitted_temperature, with_temperature
from mtdnn.metrics.records import score
from tests.reference.small_world import make_world, succeed

LABELS = ["yes_", "no_"]


def overconfident(rows: int = 400, factor: float = 3.0) -> list[dict]:
    """Records whose logits are `factor` times those from which their labels are drawn."""
    generator = np.random.default_rng(5)
    logits = generator.normal(size=(rows, 2))
    drawn = [generator.choice(2, p=each) for each in softmax(logits, axis=1)]
    scores = softmax(factor * logits, axis=1)
    return [
        {"id": str(row), "label": LABELS[drawn[row]], "prediction": LABELS[int(scores[row].argmax())],
         "scores": dict(zip(LABELS, scores[row].tolist(), strict=True))}
        for row in range(rows)
    ]  # fmt: skip


def test_the_temperature_is_that_of_a_general_minimiser():
    records = overconfident()
    logits = np.log([list(each["scores"].values()) for each in records])
    gold = np.array([LABELS.index(each["label"]) for each in records])

    def loss(temperature: np.ndarray) -> float:
        return -float(log_softmax(logits / temperature, axis=1)[np.arange(len(gold)), gold].mean())

    expected = minimize(loss, x0=[1.0], method="Nelder-Mead").x[0]
    assert fitted_temperature(records, LABELS) == pytest.approx(expected, rel=1e-3)
    assert 2.2 < expected < 4  # 3, to the accuracy of 400 rows


def test_calibration_lowers_ece_and_changes_no_prediction():
    records = overconfident()
    temperature = fitted_temperature(records, LABELS)
    calibrated = [{**with_temperature(each, temperature), "temperature": temperature} for each in records]
    before, after = (score(each, metrics=["ece", "accuracy"], labels=LABELS) for each in (records, calibrated))
    assert after["ece"] < before["ece"] / 2
    assert after["accuracy"] == before["accuracy"]
    found = score(calibrated, metrics=["ece_before_calibration"], labels=LABELS)
    assert found["ece_before_calibration"] == pytest.approx(before["ece"])


def test_calibration_that_sharpens_strongly_can_be_undone():
    """All rows right at 0.9: the temperature is near the least, and what it makes of 0.1 is far below 1e-12."""
    records = [
        {"id": str(row), "label": "yes_", "prediction": "yes_", "scores": {"yes_": 0.9, "no_": 0.1}}
        for row in range(40)
    ]
    temperature = fitted_temperature(records, LABELS)
    calibrated = [{**with_temperature(each, temperature), "temperature": temperature} for each in records]
    assert calibrated[0]["scores"]["no_"] < 1e-12
    found = score(calibrated, metrics=["ece_before_calibration"], labels=LABELS)
    assert found["ece_before_calibration"] == pytest.approx(0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose first task is calibrated, on labels that its dev split has at random."""
    folder = make_world(tmp_path_factory.mktemp("calibrated") / "world")
    tasks = (folder / "tasks.yml").read_text().replace("labels: [yes_, no_]", "labels: [yes_, no_]\n  calibrate: true")
    (folder / "tasks.yml").write_text(tasks)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("prepro tasks.yml --data data --encoder encoder --out prepared --workers 1")
        succeed("train run.yml --max_steps 4 --tasks_per_step all")
    return folder


def test_the_temperature_is_in_the_checkpoint_and_results_have_both_errors(run):
    results = json.loads((run / "run" / "results.json").read_text())["nli"]["dev"]
    assert {"accuracy", "ece", "ece_before_calibration"} <= results.keys()
    lines = [json.loads(line) for line in (run / "run" / "predictions" / "nli.dev.jsonl").read_text().splitlines()]
    opened = open_run(run / "run")
    temperature = float(opened.model.heads["nli"].temperature)
    assert temperature != 1.0
    assert {line["temperature"] for line in lines} == {temperature}


def test_predictions_and_the_exported_model_have_the_calibrated_probabilities(run, tmp_path):
    opened, texts = open_run(run / "run"), ("A red kite flies.", "The kite flies.")
    head = opened.model.heads["nli"]
    record = opened.predict("nli", [texts])["nli"][0]
    with torch.no_grad():
        head.temperature.fill_(1.0)
    plain = opened.predict("nli", [texts])["nli"][0]
    expected = with_temperature(plain, record["temperature"])["scores"]
    assert record["scores"] == pytest.approx(expected, rel=1e-5)
    succeed(f"export {run / 'run'} --task nli --output {tmp_path / 'exported'}")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    with torch.no_grad():
        shares = torch.softmax(model(**tokenizer(*texts, return_tensors="pt")).logits[0], -1)
    assert dict(zip(LABELS, shares.tolist(), strict=True)) == pytest.approx(record["scores"], rel=1e-4)  # float32


def test_a_run_that_starts_from_a_calibrated_head_need_not_calibrate(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run)
    plain = (run / "tasks.yml").read_text().replace("\n  calibrate: true", "")
    (tmp_path / "tasks.yml").write_text(plain)
    succeed(f"train run.yml --max_steps 1 --tasks {tmp_path / 'tasks.yml'} --output {tmp_path / 'run'} "
            f"--encoder.run {run / 'run'} --encoder.heads keep")  # fmt: skip
    assert "temperature" not in dict(open_run(tmp_path / "run").model.heads["nli"].named_buffers())


def test_the_error_before_calibration_needs_calibration():
    block = {"task_type": "classification", "labels": LABELS, "metrics": ["ece_before_calibration"]}
    (found,) = block_faults(load_task_defs({"t": block})["t"])
    assert str(found) == "t: t.metrics: ece_before_calibration without calibration. Add calibrate: true."
