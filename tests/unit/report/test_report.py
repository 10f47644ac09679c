"""Reports of runs and studies: what stands in them, that they stand alone, and that they need no torch."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtdnn.cli.main import main
from mtdnn.config.run import RunConfig
from mtdnn.config.tasks import task_def_from
from mtdnn.data.manifest import STORED_KEYS
from mtdnn.errors import DataError
from mtdnn.metrics.records import RecordFiles
from mtdnn.report.document import Document, Heading, Place, Table, Text, as_code, to_html, to_markdown
from mtdnn.report.read import confusion, most_frequent_share, read_curves, row_texts, worst
from mtdnn.report.study_view import read_study
from mtdnn.report.write import write_report
from mtdnn.study.cells import Diverged, Outcome, RunCell
from mtdnn.study.grid import Cell
from mtdnn.study.launchers import Here
from mtdnn.study.load import load_study
from mtdnn.study.run import chosen_cells
from mtdnn.study.scheduler import run_cells
from mtdnn.task_types.classification import Classification
from mtdnn.task_types.regression import Regression

TASKS = {"nli": {"task_type": "classification", "labels": ["no", "yes"], "inputs": ["premise", "hypothesis"]}}
ROWS = [(f"r{n}", "yes" if n % 3 else "no", f"premise {n} <b>&", f"hypothesis {n}") for n in range(12)]


def records(right: int) -> list[dict[str, Any]]:
    """Predictions of the rows, the first `right` of them correct."""
    found = []
    for number, (row_id, label, *_) in enumerate(ROWS):
        prediction = label if number < right else {"yes": "no", "no": "yes"}[label]
        sure = 0.6 + number / 100
        scores = {name: sure if name == prediction else 1 - sure for name in ("no", "yes")}
        found.append({"id": row_id, "prediction": prediction, "label": label, "scores": scores})
    return found


def write_run(run: Path, *, right: int, rows_of: Path, config: RunConfig | None = None) -> dict[str, Any]:
    """The folder a run leaves behind, with made-up predictions; returns its results."""
    (run / "predictions").mkdir(parents=True)
    config = config or RunConfig(tasks="tasks.yml", data=str(rows_of), output=str(run), encoder="tiny")
    (run / "run.yml").write_text(config.to_yaml())
    (run / "tasks.yml").write_text(yaml.safe_dump(TASKS))
    log: list[dict[str, Any]] = []
    for step in (5, 10):
        log.append({"step": step, "train": {"nli": {"task": 1 / step, "smart": 0.1, "steps": 5}}})
        log.append({"step": step, "evaluation": {"nli": {"dev": {"accuracy": step / 20, "rows": 12}}}})
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    text = "".join(json.dumps(record) + "\n" for record in records(right))
    (run / "predictions" / "nli.dev.jsonl").write_text(text)
    made_by = {"seed": 1, "step": 10, "commit": "abc1234"}
    results = {"nli": {"dev": {"accuracy": right / 12, "rows": 12}}, "_run": made_by}
    (run / "results.json").write_text(json.dumps(results))
    return results


def write_rows(folder: Path) -> Path:
    """Prepared rows, as far as a report looks at them: the manifest names the file the texts are in."""
    source = folder / "dev.tsv"
    source.write_text("".join("\t".join(row) + "\n" for row in ROWS), encoding="utf-8")
    place = folder / "prepared" / "nli" / "dev"
    place.mkdir(parents=True)
    manifest = {
        "task": "nli",
        "split": "dev",
        "tokenizer": {"encoder": "tiny", "sha256": "0"},
        "block": dict.fromkeys(STORED_KEYS),
        "source": {"path": str(source), "sha256": "0"},
    }
    (place / "manifest.json").write_text(json.dumps(manifest))
    return folder / "prepared"


def made_up(cell: Cell) -> Outcome:
    better = {"encoder": 0, "mt-dnn": 3}[cell.axes["init"]] + {"0.1": 0, "1.0": 2}[cell.axes["fraction"]]
    right = 6 + cell.config.seed + better
    results = write_run(cell.run_folder, right=min(right, 12), rows_of=Path(cell.config.data), config=cell.config)
    return {"results": results, "rows": {"nli": {"0.1": 10, "1.0": 100}[cell.axes["fraction"]]}}


@pytest.fixture(scope="module")
def curve_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with a learning curve, and its report."""
    folder = write_study(
        tmp_path_factory.mktemp("curve"), compare="init", reference="encoder", across="fraction", labels_axis=True
    )
    write_report(folder)
    return folder


def mt_dnn_diverges(cell: Cell) -> Outcome:
    if cell.axes["init"] == "mt-dnn":
        raise Diverged("step 7: task 'nli': the loss is nan")
    return made_up(cell)


def write_study(folder: Path, run_cell: RunCell = made_up, **report: Any) -> Path:
    """A finished study of 2 initialisations × 2 fractions × 2 seeds, with made-up numbers."""
    (folder / "tasks.yml").write_text(yaml.safe_dump(TASKS))
    study = {
        "output": str(folder / "study"),
        "run": {"tasks": str(folder / "tasks.yml"), "data": str(write_rows(folder)), "encoder": "tiny"},
        "stages": {
            "fine_tune": {
                "axes": {
                    "init": {"encoder": {}, "mt-dnn": {"epochs": 2}},
                    "fraction": {"0.1": {"batch_size": 8}, "1.0": {}},
                    "seed": [1, 2],
                }
            }
        },
        "report": report,
    }
    (folder / "study.yml").write_text(yaml.safe_dump(study, sort_keys=False))
    run_cells(load_study(folder / "study.yml"), Here(run_cell), progress=False)
    return folder / "study"


def test_the_report_of_a_run_has_its_numbers_curves_matrix_and_worst_rows_with_texts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, right=9, rows_of=write_rows(tmp_path))
    markdown, page = (path.read_text(encoding="utf-8") for path in write_report(run))
    assert "| nli | dev | 12 | accuracy 75.0 |" in markdown
    assert "| no | 3 (75 %) | 1 (25 %) |" in markdown  # r9 is the wrong "no"
    assert "| row | premise | hypothesis | label | prediction | off by |" in markdown
    assert "| r11 | premise 11 &lt;b>& | hypothesis 11 | yes | no | 0.71 |" in markdown
    assert "premise 11 &lt;b&gt;&amp;" in page
    assert page.count("<svg") == 2  # losses and the dev metric


@pytest.mark.parametrize(
    ("terms", "own", "reported"),
    [
        ({}, None, ""),
        ({"regularizer": "none"}, "none", ""),
        ({"proximal": "vanilla"}, None, " Proximal term `vanilla`."),
        (
            {
                "regularizer": {"name": "smart", "eta": {"relative": 0.05}},
                "proximal": {"name": "momentum", "mu": 0.5},
            },
            None,
            " Regularizer `{name: smart, eta: {relative: 0.05}}`; proximal term `{name: momentum, mu: 0.5}`.",
        ),
        ({"regularizer": "smart"}, "smart", " Regularizer `smart`."),
        ({"regularizer": "smart"}, "none", " Regularizer `smart`, of `nli` none."),
        (
            {"regularizer": "smart"},
            {"name": "r_drop", "weight": 2},
            " Regularizer `smart`, of `nli` `{name: r_drop, weight: 2}`.",
        ),
        ({}, "r_drop", " Regularizer of `nli` `r_drop`."),
    ],
)
def test_the_header_names_the_regularizer_and_the_proximal_term(
    tmp_path: Path, terms: dict[str, Any], own: Any, reported: str
) -> None:
    run = tmp_path / "run"
    places = {"tasks": "tasks.yml", "data": "prepared", "output": str(run), "encoder": "tiny", "train": ["nli"]}
    write_run(run, right=9, rows_of=tmp_path, config=RunConfig.model_validate({**places, **terms}))
    task = {**TASKS["nli"], "splits": {"train": "train"}}
    another = {**task, "regularizer": "vat"}  # which the run is not trained on
    tasks = {"nli": {**task, **({"regularizer": own} if own else {})}, "another": another}
    (run / "tasks.yml").write_text(yaml.safe_dump(tasks))
    assert f"commit `abc1234`.{reported}\n" in write_report(run)[0].read_text(encoding="utf-8")


def test_the_header_names_what_the_run_has_where_the_tasks_are_not_at_hand(tmp_path: Path) -> None:
    run = tmp_path / "run"
    places = {"tasks": "tasks.yml", "data": "prepared", "output": str(run), "encoder": "tiny"}
    config = RunConfig.model_validate({**places, "regularizer": "smart"})
    write_run(run, right=9, rows_of=tmp_path, config=config)
    (run / "tasks.yml").unlink()
    assert "commit `abc1234`. Regularizer `smart`.\n" in write_report(run)[0].read_text(encoding="utf-8")


def test_every_loss_in_the_log_is_drawn_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, right=9, rows_of=write_rows(tmp_path))
    losses = {"task": 0.5, "a_penalty_of_mine": 0.1, "proximal": 0.2}
    values = {**losses, "gradient_norm": 7, "steps": 5, "proximal.drift": 1, "gradient.task": 2}
    (run / "log.jsonl").write_text("".join(json.dumps({"step": n, "train": {"nli": values}}) + "\n" for n in (5, 10)))
    write_report(run)
    picture = (run / "report_pictures" / "losses.svg").read_text(encoding="utf-8")
    assert all(f">{name}<" in picture for name in losses)
    assert not any(word in picture for word in (">steps<", "drift", "gradient"))


def report_of_log(run: Path, *lines: dict[str, dict[str, float]]) -> str:
    """The report of a run whose log has these values of its tasks, a line each."""
    write_run(run, right=9, rows_of=run)
    log = [{"step": 10 * number, "train": tasks} for number, tasks in enumerate(lines, 1)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return write_report(run)[0].read_text(encoding="utf-8")


def test_the_last_of_each_terms_diagnostics_stand_in_a_table(tmp_path: Path) -> None:
    proximal = {"proximal": 0.25, "proximal.drift": 0.0490123}
    norms = {"gradient.task": 6, "gradient.smart": 1.5, "gradient.proximal": 0.5}  # shares of 8
    smart = {"smart": 0.02, "smart.perturbation": 1e-4, "smart.clipped": 0.75}
    before = {"nli": {"task": 1, "gradient_norm": 5, "steps": 9, **smart, **norms, **proximal}}
    after = {
        "nli": {"task": 0.5, "gradient_norm": 4, "steps": 9, **smart, "smart": 3.14159e-10},
        "rte": {"task": 0.5, "gradient_norm": 4, "steps": 1, "r_drop": 1.5, **proximal},
    }
    text = report_of_log(tmp_path / "run", before, after)
    assert (
        "| task | method | penalty | perturbation | clipped | proximal | drift | ∇ task | ∇ penalty | ∇ proximal |\n"
    ) in text
    assert "| nli | smart | 3.14e-10 | 0.0001 | 75 | 0.25 | 0.049 | 75 | 18.8 | 6.25 |\n" in text
    assert "| rte | r_drop | 1.5 | – | – | 0.25 | 0.049 | – | – | – |\n" in text
    assert "Clipped: the share of its coordinates clipped by the limit, in percent." in text


def test_the_table_of_terms_has_only_columns_with_a_value(tmp_path: Path) -> None:
    alone = {"task": 1, "gradient_norm": 5, "gradient.task": 6, "steps": 9}
    assert "## Regularizer" not in report_of_log(tmp_path / "none", {"nli": alone})
    text = report_of_log(tmp_path / "proximal", {"nli": {**alone, "proximal": 0.25}, "rte": alone})
    assert "| task | proximal |\n| --- | ---: |\n| nli | 0.25 |\n\nThe last value" in text and "Penalty:" not in text
    text = report_of_log(tmp_path / "mine", {"nli": {**alone, "free_lb.clipped": 0.5, "free_lb.of_my_own": 2}})
    assert "| task | method | clipped | of_my_own |\n| --- | --- | ---: | ---: |\n| nli | free_lb | 50 | 2 |\n" in text
    flat = {"smart": 0, "gradient.task": 0, "gradient.smart": 0}
    assert "| task | method | penalty |\n" in report_of_log(tmp_path / "flat", {"nli": {**alone, **flat}})


def test_a_split_without_labels_is_in_the_results_as_not_measured(tmp_path: Path) -> None:
    results = write_run(tmp_path / "run", right=9, rows_of=write_rows(tmp_path))
    results["nli"]["test"] = {"rows": 0}
    (tmp_path / "run/results.json").write_text(json.dumps(results))
    text = write_report(tmp_path / "run")[0].read_text(encoding="utf-8")
    assert "| nli | dev | 12 | accuracy 75.0 |\n| nli | test | 0 | not measured: no row has a label |\n" in text


def test_a_dev_split_without_labels_has_no_curve(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, right=9, rows_of=write_rows(tmp_path))
    for labelled in (True, False):
        with (run / "log.jsonl").open("w") as file:
            for step in (5, 10):
                splits = {"blind": {"rows": 0}, **({"dev": {"accuracy": 0.5, "rows": 12}} if labelled else {})}
                file.write(json.dumps({"step": step, "evaluation": {"nli": splits}}) + "\n")
        assert ("## Dev metrics" in write_report(run)[0].read_text(encoding="utf-8")) == labelled


def test_the_page_is_self_contained_and_suits_light_and_dark(curve_study: Path) -> None:
    text = (curve_study / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"(?:src|href)=\"([^\"#]+)\"", text))
    assert not addresses
    assert "url(http" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text and "#010203" not in text


def test_the_report_of_a_study_has_means_tests_and_a_curve_over_the_training_rows(curve_study: Path) -> None:
    markdown, page = ((curve_study / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    # 7/12 and 8/12: mean 62.5, sample deviation 1/(12·√2) = 5.9; always "yes" has 8/12; 3 rows more: 10/12 and 11/12
    assert "| encoder | 62.5 ± 5.9 (2) [2 at chance] | 79.2 ± 5.9 (2) |" in markdown
    assert "| mt-dnn | **87.5 ± 5.9 (2)** | **100.0 ± 0.0 (2)** |" in markdown
    assert "| nli | 0.1 | mt-dnn | +25.0 | +25.0 … +25.0 | 2 | – | – | 0.500 |" in markdown  # no spread, no t
    assert "0.1 (10)" in markdown and "1.0 (100)" in markdown
    assert ">10<" in page and ">100<" in page  # ticks of the log axis
    assert "1 of 8" in markdown or "2 of 8" in markdown  # rows wrong in some of the runs


def test_the_lines_that_tie_for_the_best_are_all_bold_and_the_table_says_what_bold_means(tmp_path: Path) -> None:
    def all_alike(cell: Cell) -> Outcome:
        results = write_run(cell.run_folder, right=9, rows_of=Path(cell.config.data), config=cell.config)
        return {"results": results, "rows": {}}

    folder = write_study(tmp_path, all_alike, compare="init", across="fraction")
    text = write_report(folder)[0].read_text(encoding="utf-8")
    for label in ("encoder", "mt-dnn"):
        assert f"| {label} | **75.0 ± 0.0 (2)** | **75.0 ± 0.0 (2)** |" in text
    assert "Bold: the best mean of its column, each of them where several are equal" in text


def test_pictures_next_to_the_markdown_are_whole_svg_files(curve_study: Path) -> None:
    text = (curve_study / "report.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\((report_pictures/[^)]+)\)", text)
    assert named
    for name in named:
        xml.etree.ElementTree.parse(curve_study / name)


def test_without_columns_all_tasks_stand_in_one_table(tmp_path: Path) -> None:
    folder = write_study(tmp_path, compare="init", reference="encoder")
    text = write_report(folder)[0].read_text(encoding="utf-8")
    assert "| encoder, fraction 0.1 | 62.5 ± 5.9 (2) [2 at chance] |" in text
    assert "|  | nli: accuracy |" in text
    assert "| nli | mt-dnn, fraction 1.0 | +20.8 |" in text  # 12/12 twice, minus 9/12 and 10/12


def test_a_method_whose_runs_all_diverge_is_in_the_tables(tmp_path: Path) -> None:
    for name, across in (("columns", "fraction"), ("tasks", None)):
        (tmp_path / name).mkdir()
        folder = write_study(
            tmp_path / name, mt_dnn_diverges, compare="init", reference="encoder", across=across, labels_axis=True
        )
        text = write_report(folder)[0].read_text(encoding="utf-8")
        if across:
            assert "| mt-dnn | – [2 diverged] | – [2 diverged] |" in text
            assert "| 0.1 (10) | 1.0 (100) |" in text and "curve-nli.svg" in text
        else:
            assert "| mt-dnn, fraction 0.1 | – [2 diverged] |" in text
        assert "nan" not in text


def test_the_best_method_is_bold_and_the_metric_in_percent_where_the_first_one_diverged(tmp_path: Path) -> None:
    def encoder_diverges(cell: Cell) -> Outcome:
        if cell.axes["init"] == "encoder":
            raise Diverged("step 7: task 'nli': the loss is nan")
        return made_up(cell)

    folder = write_study(tmp_path, encoder_diverges, compare="init", reference="encoder", across="fraction")
    text = write_report(folder)[0].read_text(encoding="utf-8")
    assert "accuracy, %; columns: fraction" in text
    assert "| encoder | – [2 diverged] | – [2 diverged] |" in text


IMPORTED = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\n"


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that can be imported, and leaves this file when it is."""
    (tmp_path / "strange_metrics.py").write_text(IMPORTED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "strange_metrics.imported"


BLEU = {"strange_metrics.bleu": {"direction": "maximize", "range": [0, 100], "percent": False}}
UNKNOWN = "Whether larger is better is unknown for strange_metrics.bleu"


@pytest.mark.parametrize("scales", [BLEU, {}, {"strange_metrics.bleu": {"direction": "up", "range": 3}}])
def test_a_run_measured_by_a_strangers_metric_is_reported_without_importing_it(
    tmp_path: Path, strange: Path, scales: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    write_run(run, right=9, rows_of=write_rows(tmp_path))
    block = {**TASKS["nli"], "metrics": ["strange_metrics.bleu"]}
    (run / "tasks.yml").write_text(yaml.safe_dump({"nli": block}))
    results = {"nli": {"dev": {"strange_metrics.bleu": 35.2, "rows": 12}}, "_metrics": scales}
    (run / "results.json").write_text(json.dumps(results))
    text = write_report(run)[0].read_text(encoding="utf-8")
    assert "| nli | dev | 12 | strange_metrics.bleu 35.200 |" in text
    assert (UNKNOWN in text) == (scales is not BLEU)
    assert not strange.exists()


@pytest.mark.parametrize("scales", [BLEU, None])
def test_a_study_measured_by_a_strangers_metric_is_reported_without_importing_it(
    tmp_path: Path, strange: Path, scales: dict[str, Any] | None
) -> None:
    """Without the scale, as earlier versions wrote it, no method is called the best or better."""

    def measured(cell: Cell) -> Outcome:
        outcome = made_up(cell)
        share = outcome["results"]["nli"]["dev"]["accuracy"]
        results = {"nli": {"dev": {"strange_metrics.bleu": 100 * share, "rows": 12}}}
        return {**outcome, "results": {**results, **({} if scales is None else {"_metrics": scales})}}

    folder = write_study(tmp_path, measured, compare="init", reference="encoder", across="fraction")
    text = write_report(folder)[0].read_text(encoding="utf-8")
    assert "strange_metrics.bleu; columns: fraction" in text
    assert (UNKNOWN in text) == (scales is None)
    # 10 and 11 of 12 rows at fraction 0.1
    assert (
        "| mt-dnn | 87.500 ± 5.893 (2) |" in text if scales is None else "| mt-dnn | **87.500 ± 5.893 (2)** |" in text
    )
    assert ("**" in text) == (scales is not None)
    assert not strange.exists()


def test_pictures_and_rows_are_of_the_best_values_of_tuned_axes_alone(tmp_path: Path) -> None:
    folder = write_study(tmp_path, compare="init", reference="encoder", best_over=["fraction"])  # 1.0 has 2 rows more
    view = read_study(folder)
    kept = {line.run for line in view.compared}
    assert {line.axes["fraction"] for line in view.compared} == {"1.0"} and len(kept) == 4
    votes = tmp_path / "votes.tsv"
    votes.write_text("".join(f"{row_id}\t{','.join([label] * 5)}\n" for row_id, label, *_ in ROWS))
    text = write_report(folder, annotators=votes)[0].read_text(encoding="utf-8")
    assert "| mt-dnn | **100.0 ± 0.0 (2)** |" in text
    assert "| no | 3 (75 %) | 1 (25 %) |" in text  # the encoder's first run at 1.0 has 9 rows right
    assert "| encoder | 5/0 | 12 | 79.2 |" in text  # the mean of 9/12 and 10/12
    assert "| 2 of 4 |" in text and "of 8 |" not in text  # rows wrong in some of the runs


def one_or_both_tasks(cell: Cell) -> Outcome:
    """Both tasks together, or one alone at 0.70 and 0.72; rte has fewer rows when it is trained alone."""
    cell.run_folder.mkdir(parents=True)
    (cell.run_folder / "run.yml").write_text(cell.config.to_yaml())
    trained = cell.config.train or ()
    score = 0.8 if len(trained) > 1 else 0.68 + cell.config.seed / 50
    if cell.axes.get("method") == "MT-DNN":
        score = 0.9
    rows = {"nli": 100, "rte": 60 if len(trained) > 1 else 50}
    return {
        "results": {task: {"dev": {"accuracy": score, "rows": 12}} for task in trained},
        "rows": {task: rows[task] for task in trained},
    }


def test_multi_task_runs_show_the_difference_to_the_task_trained_alone(tmp_path: Path) -> None:
    (tmp_path / "tasks.yml").write_text(yaml.safe_dump({"nli": TASKS["nli"], "rte": TASKS["nli"]}))
    methods = {"single": {}, "MT-DNN": {"encoder": {"run": {"stage": "multi_task"}}}}
    study = {
        "output": str(tmp_path / "study"),
        "run": {"tasks": str(tmp_path / "tasks.yml"), "data": "prepared", "encoder": "tiny"},
        "stages": {
            "multi_task": {"run": {"train": ["nli", "rte"]}, "axes": {"seed": [1]}},
            "fine_tune": {
                "run": {"train": ["${data_set}"]},
                "axes": {"data_set": {"nli": {}, "rte": {}}, "method": methods, "seed": [1, 2]},
            },
        },
        "report": {"compare": "method", "reference": "single"},
    }
    (tmp_path / "study.yml").write_text(yaml.safe_dump(study, sort_keys=False))
    run_cells(load_study(tmp_path / "study.yml"), Here(one_or_both_tasks), progress=False)
    text = write_report(tmp_path / "study")[0].read_text(encoding="utf-8")
    assert "| stage | cell | task | split | metric | value | minus alone |" in text
    assert "| multi_task | seed 1 | nli | dev | accuracy | 80.0 | +9.0 (2) |" in text  # 80 minus the mean of 70 and 72
    assert "| multi_task | seed 1 | rte | dev | accuracy | 80.0 |  |" in text  # of other rows: nothing to compare with


@pytest.mark.parametrize("across", [None, "fraction"])
@pytest.mark.parametrize("outcome", ["finished", "diverged"])
def test_the_report_of_a_first_stage_alone_has_what_there_is(tmp_path: Path, across: str | None, outcome: str) -> None:
    (tmp_path / "tasks.yml").write_text(yaml.safe_dump({**TASKS, "rte": TASKS["nli"]}))
    train = {"train": ["nli"]}
    axes = {"method": {"single": None, "mt": {"encoder": {"run": {"stage": "base", "seed": 1}}}}}
    axes |= {across: {"1.0": None}} if across else {}
    study = {
        "output": str(tmp_path / "study"),
        "run": {"tasks": str(tmp_path / "tasks.yml"), "data": "prepared", "encoder": "tiny"},
        "stages": {
            "base": {"run": train, "axes": {"seed": [1, 2]}},
            "fine_tune": {"run": train, "axes": {**axes, "seed": [1, 2]}},
        },
        "report": {"compare": "method", "reference": "single", "across": across},
    }
    (tmp_path / "study.yml").write_text(yaml.safe_dump(study, sort_keys=False))

    def first_finishes(cell: Cell) -> Outcome:
        if outcome == "diverged" and cell.config.seed == 2:
            raise Diverged("step 7: the loss is nan")
        return one_or_both_tasks(cell)

    grid = load_study(tmp_path / "study.yml")
    run_cells(grid, Here(first_finishes), cells=chosen_cells(grid, ["base"]), progress=False)
    text = write_report(tmp_path / "study")[0].read_text(encoding="utf-8")
    assert "2 of 6 cells finished" in text
    assert "No run that `method` is compared over has a result yet." in text
    assert "| base | seed 1 | nli | dev | accuracy |" in text


def test_the_report_is_the_same_bytes_every_time(curve_study: Path) -> None:
    before = [(curve_study / name).read_bytes() for name in ("report.md", "report.html")]
    assert [path.read_bytes() for path in write_report(curve_study)] == before


def test_annotators_add_bars_by_agreement(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, right=9, rows_of=write_rows(tmp_path))
    votes = tmp_path / "votes.tsv"
    lines = []
    for number, (row_id, label, *_) in enumerate(ROWS):
        lines.append(f"{row_id}\t{','.join([label] * 5 if number % 2 else [label] * 4 + ['no'])}\n")
    votes.write_text("".join(lines))
    text = write_report(run, annotators=votes)[0].read_text(encoding="utf-8")
    assert "| dev | 5/0 |" in text and "| dev | 4/1 |" in text


def report_with_votes(folder: Path, votes: dict[str, list[str]]) -> str:
    write_run(folder / "run", right=9, rows_of=write_rows(folder))
    file = folder / "votes.tsv"
    file.write_text("".join(f"{row_id}\t{','.join(given)}\n" for row_id, given in votes.items()))
    return write_report(folder / "run", annotators=file)[0].read_text(encoding="utf-8")


def test_annotators_need_not_be_five(tmp_path: Path) -> None:
    votes = {
        row_id: [label] * 3 if number % 2 else [label, label, "no"] for number, (row_id, label, *_) in enumerate(ROWS)
    }
    text = report_with_votes(tmp_path, {**votes, "r0": ["no"]})
    assert "Rows that 3 annotators voted on, by how" in text
    assert "| dev | 3/0 | 7 |" in text and "| dev | 2/1 | 4 |" in text  # even rows but r0; r6 is a "no"


@pytest.mark.parametrize(
    ("votes", "why"),
    [
        ({"r1": ["yes"], "r2": ["no"]}, "none of the 2 rows of the annotators' file has more than one vote."),
        ({"x1": ["yes", "no"]}, "no row of the annotators' file has the id of a predicted row."),
        ({"r1": ["yes"], "x": ["yes", "no"]}, "of the predicted rows none has 2 votes, as most rows of the"),
        ({"r1": ["Yes", "No"]}, "every row has a vote for a label that is none of the task's: `no`, `yes`."),
    ],
)
def test_annotators_that_add_nothing_are_reported_why(tmp_path: Path, votes: dict[str, list[str]], why: str) -> None:
    assert f"## Agreement of the annotators\n\nNothing to show: {why}" in report_with_votes(tmp_path, votes)


def test_a_folder_that_is_neither_or_has_no_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"contains neither run.yml nor study.json"):
        write_report(tmp_path)
    run = tmp_path / "run"
    write_run(run, right=9, rows_of=tmp_path)
    (run / "results.json").unlink()
    with pytest.raises(DataError, match="has no results yet"):
        write_report(run)


def test_a_report_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, right=9, rows_of=tmp_path)
    (run / "report_pictures").write_text("")  # in the way of the folder; root may write anywhere
    with pytest.raises(
        DataError, match=r"run/report_pictures: the report cannot be written: File exists. Make the folder"
    ):
        write_report(run)


def test_texts_are_those_of_the_tasks_columns(tmp_path: Path) -> None:
    """A column of weights before the texts, and inputs that have other names in the file."""
    run, prepared = tmp_path / "run", write_rows(tmp_path)
    write_run(run, right=9, rows_of=prepared)
    block = TASKS["nli"]
    (run / "tasks.yml").write_text(yaml.safe_dump({"nli": {**block, "row_weights": True}}))
    (tmp_path / "dev.tsv").write_text("r1\tyes\t0.5\tA dog runs.\tAn animal moves.\n")
    expected = {"r1": {"premise": "A dog runs.", "hypothesis": "An animal moves."}}
    assert row_texts(run, "nli", "dev", ["r1"]) == expected
    (run / "tasks.yml").write_text(yaml.safe_dump({"nli": {**block, "columns": {"premise": "sentence1"}}}))
    source = tmp_path / "dev.jsonl"
    source.write_text('{"id": "r1", "label": "yes", "sentence1": "A dog runs.", "hypothesis": "An animal moves."}\n')
    manifest = prepared / "nli" / "dev" / "manifest.json"
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**found, "source": {**found["source"], "path": str(source)}}))
    assert row_texts(run, "nli", "dev", ["r1"]) == expected


def test_texts_are_left_out_where_the_rows_are_not_at_hand(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, right=9, rows_of=tmp_path / "nowhere")
    assert row_texts(run, "nli", "dev", ["r1"]) == {}
    assert "| r11 | yes | no | 0.71 |" in write_report(run)[0].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "markdown", "page"),
    [
        ("`c`*d*", r"\`c\`\*d\*", "`c`*d*"),
        ("<b>&lt;</b>", "&lt;b>&amp;lt;&lt;/b>", "&lt;b&gt;&amp;lt;&lt;/b&gt;"),
        ("a|b\n[c](d)", r"a\|b [c]\(d)", "a|b\n[c](d)"),
        ("_x_ a_b ~~y~~ \\*", r"\_x\_ a_b \~~y\~~ \\\*", "_x_ a_b ~~y~~ \\*"),
        ("p < 0.001 & 2 [1 at chance]", "p < 0.001 & 2 [1 at chance]", "p &lt; 0.001 &amp; 2 [1 at chance]"),
    ],
)
def test_labels_and_texts_are_shown_as_they_are(text: str, markdown: str, page: str) -> None:
    """What CommonMark makes of the Markdown is the text; by hand."""
    document = Document("t", [Heading(text), Table([text], [[Place(text)]], caption=text)])
    assert to_markdown(document, pictures="").count(markdown) == 4
    assert to_html(document).count(f">{page}<") == 4 + 1  # and the link to the heading


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("The axis `a_b*c*` of *x*", r"The axis `a_b*c*` of \*x\*"),
        ("<b>x</b> of [c](d) | $e$", r"&lt;b>x&lt;/b> of [c]\(d) \| \$e\$"),
        ("# no heading", r"\# no heading"),
        ("- no item", r"\- no item"),
        ("1. no item", r"1\. no item"),
        ("2024) neither", r"2024\) neither"),
        ("0.5 of the rows\n> no quotation", "0.5 of the rows > no quotation"),
        ("> no quotation", r"\> no quotation"),
    ],
)
def test_a_paragraph_is_shown_as_it_is_but_for_code(text: str, markdown: str) -> None:
    """What CommonMark makes of the Markdown is one paragraph of the text; by hand."""
    assert to_markdown(Document("t", [Text(text)]), pictures="") == f"# t\n\n{markdown}\n"


@pytest.mark.parametrize(
    ("text", "markdown"), [("a*b*", "`a*b*`"), ("a`b\nc", "`` a`b c ``"), ("``", "``` `` ```"), ("x", "`x`")]
)
def test_code_may_have_backticks(text: str, markdown: str) -> None:
    """CommonMark 0.31, section 6.1: the fence is longer than any run of backticks within it."""
    assert as_code(text) == markdown


def test_worst_errors_name_the_inputs_are_shortened_and_list_the_choices(tmp_path: Path) -> None:
    run, data = tmp_path / "run", write_rows(tmp_path)
    write_run(run, right=9, rows_of=data)
    task = {"task_type": "multiple_choice", "inputs": ["premise", "question", "choice"]}
    (run / "tasks.yml").write_text(yaml.safe_dump({"nli": task}))
    long = "word " * 100
    (tmp_path / "dev.tsv").write_text("".join(f"{name}\t0\t{long}\tWhy?\tA <b>\tB\tC\n" for name, *_ in ROWS))
    record = {"id": "r1", "prediction": "B", "label": "The first choice of three, a long one", "scores": None}
    (run / "predictions" / "nli.dev.jsonl").write_text(json.dumps(record) + "\n")
    markdown, page = (path.read_text(encoding="utf-8") for path in write_report(run))
    assert "| row | premise | question | choice | label | prediction | off by |" in markdown
    assert (
        f"| r1 | {'word ' * 47}word… | Why? | A &lt;b> / B / C | The first choice of three, a long one | B |"
        in markdown
    )
    assert '<td class="prose">The first choice of three, a long one</td><td class="prose">B</td>' in page


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, right=9, rows_of=write_rows(tmp_path))
    code = "import sys; from pathlib import Path; from mtdnn.report.write import write_report\n"
    code += f"write_report(Path({str(run)!r}))\n"
    code += "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_confusion_counts_rows_by_label_and_prediction() -> None:
    assert confusion(records(9), ["no", "yes"]) == [[3, 1], [2, 6]]
    assert most_frequent_share(records(9), ["no", "yes"]) == pytest.approx(8 / 12)
    assert most_frequent_share(records(9), []) is None


def test_the_worst_rows_are_those_most_runs_get_wrong_then_the_surest() -> None:
    found = worst([records(9), records(10)], 3, task_type=Classification(task_def_from("nli", TASKS["nli"])))
    assert [(each.row_id, each.wrong, each.runs) for each in found] == [("r11", 2, 2), ("r10", 2, 2), ("r9", 1, 2)]


def test_numbers_are_worst_where_they_are_farthest_off() -> None:
    rows = [{"id": name, "prediction": value, "label": 1.0} for name, value in (("a", 1.1), ("b", 3.0), ("c", 0.5))]
    found = worst([rows], 2, task_type=Regression(task_def_from("likeness", {"task_type": "regression"})))
    assert [(each.row_id, each.size) for each in found] == [("b", 2.0), ("c", 0.5)]


def test_curves_are_read_from_the_log(tmp_path: Path) -> None:
    write_run(tmp_path / "run", right=9, rows_of=tmp_path)
    curves = read_curves(tmp_path / "run")
    assert curves.losses["nli"]["task"] == [(5, 0.2), (10, 0.1)]
    assert curves.dev["nli"]["dev"]["accuracy"] == [(5, 0.25), (10, 0.5)]


def test_a_last_line_of_the_log_that_was_cut_short_is_passed_over_and_another_is_reported(tmp_path: Path) -> None:
    write_run(tmp_path / "run", right=9, rows_of=tmp_path)
    log = tmp_path / "run" / "log.jsonl"
    whole = read_curves(tmp_path / "run")
    with log.open("a") as file:
        file.write('{"step": 15, "train": {"nli": {"task": 0.0')
    assert read_curves(tmp_path / "run") == whole
    with log.open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"log.jsonl:5: not JSON: .* Remove this line."):
        read_curves(tmp_path / "run")


def test_a_damaged_prediction_file_is_reported_with_its_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, right=9, rows_of=tmp_path)
    path = run / "predictions" / "nli.dev.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"nli.dev.jsonl:12: not a prediction record"):
        write_report(run)


def test_a_report_of_ten_times_as_many_rows_takes_no_more_memory(tmp_path: Path) -> None:
    """20,000 records take 12 MB as objects; what Python allocates is traced, confusions and worst errors included."""
    peaks, found = [], records(7)
    for rows in (2000, 20_000):
        run = tmp_path / f"run-{rows}"
        write_run(run, right=7, rows_of=tmp_path)
        lines = (json.dumps(found[row % 12] | {"id": f"r{row}"}) + "\n" for row in range(rows))
        with (run / "predictions" / "nli.dev.jsonl").open("w") as file:
            file.writelines(lines)
        tracemalloc.start()
        markdown, _ = write_report(run)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert "Confusion matrices" in markdown.read_text() and "Worst errors" in markdown.read_text()
    assert peaks[1] < peaks[0] + 1_000_000


def test_runs_whose_files_would_be_too_many_to_be_open_at_once_are_read_side_by_side(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    paths = [tmp_path / f"{number}.jsonl" for number in range(40)]
    for path in paths:
        path.write_text("".join(json.dumps(each) + "\n" for each in records(7)), encoding="utf-8")
    task, before = Classification(task_def_from("nli", TASKS["nli"])), resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, before[1]))
    try:
        found = worst([RecordFiles(path, reopened=True) for path in paths], 12, task_type=task)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [(each.wrong, each.runs) for each in found] == [(40, 40)] * 5


def test_the_worst_errors_of_runs_with_other_rows_are_reported_by_row_too() -> None:
    """Read row by row as far as the rows are the same ones; the rest is gathered by id."""
    first, second = records(0), records(0)
    task = Classification(task_def_from("nli", TASKS["nli"]))
    same = worst([first, second], 12, task_type=task)
    assert worst([first, [second[5], *second[:5], *second[6:]]], 12, task_type=task) == same
    assert sorted(each.runs for each in worst([first, second[:6]], 12, task_type=task)) == [1] * 6 + [2] * 6


def test_a_report_of_several_folders_is_one_of_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell writes runs/*; what is no run is reported, and the others are written."""
    for name in ("a", "b"):
        write_run(tmp_path / name, right=9, rows_of=tmp_path)
    (tmp_path / "notes").mkdir()
    a, b, notes = (str(tmp_path / name) for name in ("a", "b", "notes"))
    assert main(["report", a, b, a]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{each}/report.{end}" for each in (a, b) for end in ("md", "html")]
    assert main(["report", a, notes]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"{notes}: contains neither run.yml nor study.json. Give the folder of a run or of a study.",
        *(f"{a}/report.{end}: written" for end in ("md", "html")),
    ]
    assert main(["report", a, b, "--alone", b]) == 2
    assert capsys.readouterr().err == (
        "--alone: compares one run with others, and 2 are given. Give the folder of one run.\n"
    )
    assert main(["report", a, ""]) == 2
    assert capsys.readouterr().err == "mtdnn report: FOLDERS: '' is not a value. Give one.\n"
