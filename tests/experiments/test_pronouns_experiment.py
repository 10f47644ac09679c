"""The rows of experiments/pronouns, and what its table says of prediction records."""

from __future__ import annotations

from pathlib import Path

from data_prep.rows_out import Row
from experiments.pronouns import run
from mtdnn.config.run import load_run_config
from mtdnn.config.tasks import load_task_defs
from mtdnn.task_types.base import TASK_TYPES


def test_rows_whose_text_is_in_dev_are_left_out_wherever_the_pronoun_is() -> None:
    dev = [Row("d", "1", ("*She* saw her.", "Ida"))]
    train = [Row("a", "0", ("She saw *her*.", "Mia")), Row("b", "1", ("*It* fell.", "The jug"))]
    assert [row.id for row in run.apart_from(train, dev)] == ["b"]


def test_a_twin_has_the_same_candidates_and_another_text() -> None:
    dev = [Row("d", "1", ("The jug fell as *it* was full.", "The jug", "shelf")), Row("e", "0", ("*It* rang.", "Bell"))]
    train = [
        Row("t", "0", ("The jug fell as *it* was steep.", "the shelf", "Jug")),
        Row("u", "1", ("*It* hums.", "Bee")),
    ]
    assert run.twins(train, dev) == {"d"}
    assert [row.id for row in run.alone_from(train, dev)] == ["u"]


def test_each_part_of_the_score_has_a_verdict_where_there_are_rivals() -> None:
    first, second = ({"language_model": a, "similarity": b} for a, b in ((0.2, 0.9), (0.3, 0.1)))
    assert run.verdicts({"prediction": "1", "candidates": [first, second]}) == {
        "both": "1",
        "language_model": "0",
        "similarity": "1",
    }
    assert run.verdicts({"prediction": "0", "candidates": [first]}) == {"both": "0"}


def test_rows_are_those_of_the_definitions(tmp_path: Path) -> None:
    schema = "Mia thanked Ida because she had waited.\tIda had waited.\n"
    for split, extra in (("train", "t1\t1\tThe drawer stuck, so Ola oiled it.\tOla oiled the drawer.\n"), ("dev", "")):
        for folder, text in (("wnli", f"{split[0]}0\t1\t{schema}{extra}"), ("lm", "It rained.\n\nHe sang.\n")):
            name = f"{split}.tsv" if folder == "wnli" else f"{split}.txt"
            (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / folder / name).write_text(text)
    run.write_rows(tmp_path / "in", tmp_path / "out")
    counts = {task: len((tmp_path / "out" / task / "train.tsv").read_text().splitlines()) for task in run.TASKS}
    assert counts == {"alone": 1, "apart": 1, "shared": 2}
    assert (tmp_path / "out/lm/train.txt").read_text() == "It rained.\nHe sang.\n"
    for task in load_task_defs(run.HERE / "tasks.yml").values():
        assert TASK_TYPES.get(task.task_type).faults(task) == []


def test_the_runs_load() -> None:
    assert load_run_config(run.HERE / "lm.yml").train == ("lm",)
    assert load_run_config(run.HERE / "wnli.yml").encoder.run.endswith("/lm")
