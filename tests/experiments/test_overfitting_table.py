"""The tables of the study of overfitting: Holm over four tests, and what a run makes of wrong labels."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.outcomes import finished_lines, holm_of
from experiments.overfitting import ensemble
from experiments.overfitting.ensemble import ensemble_lines
from experiments.overfitting.table import POOLS, document_of, equal_time, main, primary, secondary
from experiments.wrong_labels import EQUAL_TIME, share_lines, shares, values_of
from mtdnn.errors import DataError
from mtdnn.metrics.base import compute
from mtdnn.report.document import to_markdown
from mtdnn.runs.folder import RunFolder
from mtdnn.study.inference import holm
from mtdnn.study.table import Line, lines_of, to_csv
from tests.experiments.test_forgetting_table import records

METRICS = ("accuracy", "auc", "cross_entropy", "cross_entropy_at_best_temperature")
SEEDS = ("101", "102", "103", "104")
TRUE = {each["id"]: each["label"] for each in records(np.random.default_rng(0), 1.0)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up predictions: four seeds; each run saw the first twenty of thirty pool rows."""
    rng, lines, cells = np.random.default_rng(0), [], []
    for seed in SEEDS:
        for noise, split in (("0", "pool"), ("0.3", "pool_noise30")):
            for method, shift in (("plain", 0.8), ("SMART", 1.0)):
                axes = {"seed": seed, "noise": noise, "method": method}
                name = f"fine_tune/{'_'.join(axes.values())}"
                folder = RunFolder(tmp_path / "cells" / name / "run")
                folder.predictions.mkdir(parents=True)
                pool = [
                    flipped(each) if noise == "0.3" and int(each["id"]) % 3 == 0 else each for each in records(rng, 1.0)
                ]
                text = "".join(json.dumps(each) + "\n" for each in pool)
                folder.prediction_file("scitail", split).write_text(text)
                folder.write_subset_ids("scitail", [str(number) for number in range(20)])
                results = {"scitail": {"dev": compute(METRICS, records(rng, shift)), split: compute(METRICS, pool)}}
                outcome = {"outcome": "finished", "results": results, "rows": {"scitail": 20}}
                lines += lines_of("fine_tune", axes, outcome, run=f"cells/{name}/run")
                cells.append({"name": name, "stage": "fine_tune", "axes": axes})
    (tmp_path / "results.csv").write_text(to_csv(lines, ["seed", "noise", "method"]))
    (tmp_path / "study.json").write_text(json.dumps({"study": {}, "axes": [], "cells": cells}))
    return tmp_path


def with_shares(study: Path) -> list[Line]:
    lines = finished_lines(study)
    return [*lines, *share_lines(study, lines, pools=POOLS, true=TRUE)]


def flipped(record: dict) -> dict:
    return {**record, "label": {"neutral": "entails", "entails": "neutral"}[record["label"]]}


def test_shares_are_of_the_rows_with_right_and_wrong_labels_seen_and_unseen() -> None:
    true = {"a": "x", "b": "x", "c": "x", "d": "y", "e": "y", "f": "x"}
    given = {"a": "x", "b": "y", "c": "y", "d": "y", "e": "x", "f": "x"}
    predicted = {"a": "x", "b": "y", "c": "x", "d": "x", "e": "y", "f": "x"}
    found = [{"id": row, "label": given[row], "prediction": predicted[row]} for row in true]
    assert shares(found, true, frozenset("abcd")) == {
        "fitted": 1 / 2,  # a and d were right, and a is predicted so
        "memorised": 1 / 2,  # b and c were wrong, and b is predicted as it was given
        "fooled": 0.0,  # e was wrong and not seen
        "unseen": 1.0,  # e and f
    }


def test_clean_rows_have_nothing_to_memorise() -> None:
    assert shares([{"id": "a", "label": "x", "prediction": "y"}], {"a": "x"}, frozenset("a")) == {"fitted": 0.0}


def test_the_primary_tests_are_paired_by_seed_and_corrected_by_holm(study: Path) -> None:
    values = values_of(with_shares(study))
    first = primary(values)
    assert [(each.name, each.metric) for each in first] == [
        (f"SMART − plain, {labels}", metric) for labels in ("clean", "30 % wrong") for metric in ("accuracy", "auc")
    ]
    ours, theirs = ([values["auc", "0.3", method][seed] for seed in SEEDS] for method in ("SMART", "plain"))
    assert first[-1].comparison.t_p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert holm_of(first) == pytest.approx(holm([each.comparison.t_p for each in first]))
    assert {each.metric for each in secondary(values)} == {*METRICS[2:], "unseen", "fitted", "memorised", "fooled"}


def test_shares_are_of_the_labels_before_noise(study: Path) -> None:
    lines = with_shares(study)
    for noise, names in (("0", {"fitted", "unseen"}), ("0.3", {"fitted", "unseen", "memorised", "fooled"})):
        of_arm = [line for line in lines if line.axes["noise"] == noise and line.split == POOLS[noise]]
        assert {line.metric for line in of_arm} - set(METRICS) == names
    text = to_markdown(document_of(lines), pictures="")
    assert all(word in text for word in ("Means", "Primary outcomes", "Secondary outcomes", "memorised"))


def test_a_study_of_clean_labels_alone_has_their_tests_alone(study: Path) -> None:
    lines = [line for line in with_shares(study) if line.axes["noise"] == "0"]
    values = values_of(lines)
    assert [(each.name, each.metric) for each in primary(values)] == [
        ("SMART − plain, clean", metric) for metric in METRICS[:2]
    ]
    assert "memorised" not in to_markdown(document_of(lines), pictures="")
    assert [each.metric for each in secondary(values)] == [*METRICS[2:], "unseen", "fitted"]


def test_a_study_of_wrong_labels_alone_has_their_tests_alone(study: Path) -> None:
    values = values_of([line for line in with_shares(study) if line.axes["noise"] == "0.3"])
    assert {each.name for each in [*primary(values), *secondary(values)]} == {"SMART − plain, 30 % wrong"}
    assert [each.metric for each in primary(values)] == ["accuracy", "auc", "memorised"]
    assert [each.metric for each in secondary(values)] == [*METRICS[2:], "unseen", "fitted", "fooled"]


def test_the_labels_before_noise_are_those_of_the_pool_file(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The means of the printed table are those of the shares counted by hand."""
    pool = study / "pool.tsv"
    pool.write_text("".join(f"{row}\t{label}\tA premise.\tA hypothesis.\n" for row, label in TRUE.items()))
    monkeypatch.setattr(sys, "argv", ["table", str(study), "--pool", str(pool)])
    main()
    values = values_of(with_shares(study))["memorised", "0.3", "plain"]
    assert f"{100 * np.mean(list(values.values())):.1f} ± " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["table", str(study), "--pool", str(study / "none.tsv")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "none.tsv" in capsys.readouterr().err


def test_plain_of_equal_time_is_compared_where_it_is_there(study: Path) -> None:
    lines = with_shares(study)
    assert equal_time(values_of(lines)) == []
    plain = [line for line in lines if line.axes["method"] == "plain"]
    longer = [
        replace(line, value=line.value and 0.9 * line.value, axes={**line.axes, "method": EQUAL_TIME}) for line in plain
    ]
    lines += longer
    found = equal_time(values_of(lines))
    assert [(each.name, each.metric) for each in found] == [
        ("SMART − plain for SMART's time, clean", metric) for metric in (*METRICS[:2], METRICS[3])
    ]
    values = values_of(lines)
    by_hand = [values["auc", "0", "SMART"][seed] - 0.9 * values["auc", "0", "plain"][seed] for seed in SEEDS]
    assert found[1].comparison.difference.mean == pytest.approx(np.mean(by_hand))
    assert "Equal time" in to_markdown(document_of(lines), pictures="")


def test_nothing_is_shown_before_the_last_cell(study: Path) -> None:
    lines = [line for line in finished_lines(study) if line.axes["noise"] == "0.3"]
    (study / "results.csv").write_text(to_csv(lines, ["seed", "noise", "method"]))
    with pytest.raises(DataError, match="8 cells are not finished"):
        finished_lines(study)


@pytest.fixture
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of second plain runs, of made-up predictions."""
    folder, rng, lines, cells = tmp_path_factory.mktemp("second"), np.random.default_rng(1), [], []
    for seed in SEEDS:
        axes, name = {"first": seed}, f"fine_tune/{seed}"
        found = records(rng, 0.9)
        run = RunFolder(folder / "cells" / name / "run")
        run.predictions.mkdir(parents=True)
        run.prediction_file("scitail", "dev").write_text("".join(json.dumps(each) + "\n" for each in found))
        outcome = {"outcome": "finished", "results": {"scitail": {"dev": compute(METRICS, found)}}, "rows": {}}
        lines += lines_of("fine_tune", axes, outcome, run=f"cells/{name}/run")
        cells.append({"name": name, "stage": "fine_tune", "axes": axes})
    (folder / "results.csv").write_text(to_csv(lines, ["first"]))
    (folder / "study.json").write_text(json.dumps({"study": {}, "axes": [], "cells": cells}))
    return folder


def test_an_ensemble_has_the_mean_of_the_probabilities_of_both_runs(study: Path, second: Path) -> None:
    write_first_runs(study)
    lines = finished_lines(study)
    found = list(ensemble_lines(study, lines, second, finished_lines(second)))
    assert len(found) == len(SEEDS) * len(METRICS)
    files = [
        RunFolder(folder / name / "run").prediction_file("scitail", "dev")
        for folder, name in ((study, "cells/fine_tune/102_0_plain"), (second, "cells/fine_tune/102"))
    ]
    first, other = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    entails = [(a["scores"]["entails"] + b["scores"]["entails"]) / 2 for a, b in zip(first, other, strict=True)]
    right = [(each > 0.5) == (record["label"] == "entails") for each, record in zip(entails, first, strict=True)]
    value = next(line.value for line in found if line.axes["seed"] == "102" and line.metric == "accuracy")
    assert value == pytest.approx(np.mean(right))
    tests = ensemble.outcomes(values_of([*lines, *found]))
    assert [(each.name, each.metric) for each in tests] == [
        ("SMART − two plain models, clean", metric) for metric in (*METRICS[:2], METRICS[3])
    ]
    assert "two plain models" in to_markdown(ensemble.document_of([*lines, *found]), pictures="")


def test_a_pair_without_a_second_run_is_refused(study: Path, second: Path) -> None:
    write_first_runs(study)
    fewer = [line for line in finished_lines(second) if line.axes["first"] != "103"]
    with pytest.raises(DataError, match="no second run for seed 103"):
        list(ensemble_lines(study, finished_lines(study), second, fewer))


def write_first_runs(study: Path) -> None:
    """Predictions for the dev split, and the task definitions, of the plain runs on clean labels."""
    rng = np.random.default_rng(2)
    for seed in SEEDS:
        run = RunFolder(study / f"cells/fine_tune/{seed}_0_plain/run")
        text = "".join(json.dumps(each) + "\n" for each in records(rng, 0.8))
        run.prediction_file("scitail", "dev").write_text(text)
        definition = "{task_type: classification, inputs: [premise, hypothesis], labels: [neutral, entails]}"
        (run.path / "tasks.yml").write_text(f"scitail: {definition}\n")
        (run.path / "run.yml").write_text("{tasks: tasks.yml, train: [scitail], encoder: none, data: none}\n")
