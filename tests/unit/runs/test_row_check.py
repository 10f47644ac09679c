"""One report on definitions and rows."""

import json

import pytest

from mtdnn.cli.main import main
from mtdnn.config.run import RunConfig
from mtdnn.data.prepro import prepare
from mtdnn.data.samplers import SAMPLERS
from mtdnn.errors import ConfigError
from mtdnn.runs.row_check import check


def table(report, title):
    lines = next(each.lines for each in report.tables() if each.title == title)
    return {line[0]: dict(zip(lines[0][1:], line[1:], strict=True)) for line in lines[1:]}


def checked(project, **settings):
    return check(project.definitions, data=project.data, num_workers=1, **settings)


def test_sound_tasks_have_no_fault_and_their_numbers_are_reported(project):
    report = checked(project)
    assert report.faults == []
    rows = table(report, "Rows")
    assert rows["nli/train"] == {
        "rows": "3", "unlabelled": "0", "min words": "4", "median words": "10", "q95 words": "17.2", "max words": "18",
    }  # fmt: skip
    assert rows["nli/dev"]["unlabelled"] == "1"
    labels = table(report, "Labels")
    assert labels["nli/train"]["labels"] == "yes_: 2 (66.7%), no_: 1 (33.3%)"
    assert labels["like/train"]["labels"] == "min: 0, q25: 0.625, median: 1.25, q75: 1.875, max: 2.5, mean: 1.25"
    assert any("nli/test: no rows for this split" in line for line in map(str, report.warnings))
    assert "nli/dev: label: 1 of 2 dev rows have none. They are not measured." in map(str, report.warnings)
    assert "nli/train   3 " in str(report)


def test_an_encoder_gives_lengths_in_tokens_and_the_share_of_cut_rows(project, encoder):
    rows = table(checked(project, encoder=str(encoder)), "Rows")
    assert rows["nli/train"]["cut"] == "1 (33.3%)"
    assert rows["nli/train"]["max tokens"] == "16"
    assert rows["nli/train"]["min tokens"] == "9"  # [CLS] the barn . [SEP] a barn . [SEP]


def test_faults_of_definitions_and_rows_come_together(project, encoder):
    project.define(
        project.definitions.read_text()
        + "bad:\n  task_type: classifcation\nworse:\n  task_type: regression\n  dropot: 1\n"
    )
    project.rows("nli/train", ["n1\tyes_\tA.\tB.", "n2\tperhaps\tA.\tB.", "n1\tno_\tC.\tD."])
    (project.data / "like/dev.tsv").unlink()
    reported = "\n".join(map(str, checked(project).faults))
    assert "tasks.yml:11: bad.task_type: unknown task type 'classifcation'" in reported
    assert "tasks.yml:14: worse.dropot: unknown key 'dropot'" in reported and "Did you mean 'dropout'?" in reported
    assert "nli/train.tsv:2: label: 'perhaps' is not in nli.labels" in reported
    assert f"nli/train.tsv:3: id: 'n1' is also the id of {project.data}/nli/train.tsv:1" in reported
    assert "like/dev: no rows for this split" in reported


FORM_AND_TYPE = """
bad:
  task_type: classifcation
  dropout: 1.5
worse:
  task_type: classification
  inputs: {first: 1}
  labels: [x, y]
  metrics: [acuracy]
  loss: mse
  head: {name: san, turns: 0}
  shade: dark
third:
  task_type: classification
  labels: [x]
  weight: heavy
"""
"""Blocks with an error of form each, and in addition what their types cannot use."""


def told_of_form_and_type(lines):
    found = [line.partition("tasks.yml:")[2].partition(" ")[2] for line in map(str, lines) if "tasks.yml" in line]
    kept = ("bad.", "worse.", "third.")
    return sorted(line.partition(". Did")[0] for line in found if line.startswith(kept))


EXPECTED = [
    "bad.dropout: 1.5: input should be less than 1",
    "bad.task_type: unknown task type 'classifcation'; known: classification, coreference, generation, masked_lm, "
    "multilabel, multiple_choice, ranking, regression, sequence_labeling, span",
    "third.labels: 1 labels. Classification needs at least two.",
    "third.weight: 'heavy': expected a number",
    "worse.head.turns: 0: input should be greater than or equal to 1",
    "worse.inputs: {'first': 1}: expected a text",
    "worse.loss: unknown loss 'mse'; known: cross_entropy",
    "worse.metrics: unknown metric 'acuracy'; known: accuracy, ",
    "worse.shade: unknown key 'shade'",
]


def test_errors_of_form_hide_none_that_the_type_finds(project, encoder, tmp_path):
    project.define(FORM_AND_TYPE)
    found = told_of_form_and_type(checked(project).faults)
    for one, expected in zip(found, EXPECTED, strict=True):
        assert one.startswith(expected)
    with pytest.raises(ConfigError) as caught:
        prepare(project.definitions, data=project.data, encoder=encoder, out=tmp_path / "out", num_workers=1)
    assert told_of_form_and_type(caught.value.faults) == found


def test_errors_of_a_run_and_a_missing_encoder_hide_none_of_the_rows(project, tmp_path):
    project.rows("nli/train", ["n1\tperhaps\tA.\tB."])
    run = tmp_path / "run.yml"
    run.write_text("tasks: t\ndata: d\noutput: o\nencoder: /nowhere\nepochs: -1\n")
    reported = [str(each) for each in checked(project, run=run, encoder="/none").faults]
    assert reported[0] == "encoder: there is no folder '/none'. Check the path, or give a Hugging Face hub name."
    assert reported[1].startswith(f"{run}:5: epochs: -1")
    assert "nli/train.tsv:1: label: 'perhaps' is not in nli.labels" in reported[2]
    run.write_text("tasks: t\ndata: d\noutput: o\nencoder: /nowhere\nregularizer: smart-tuned\n")
    reported = [str(each) for each in checked(project, run=run).faults]
    assert reported[0].startswith(f"{run}:4: encoder: there is no folder '/nowhere'.") and len(reported) == 2


def test_a_block_that_yaml_cannot_hold_does_not_hide_the_rows_of_others(project):
    project.define(project.definitions.read_text() + "broken:\n  task_type: regression\n  dropout: 3\n")
    project.rows("nli/train", ["n2\tperhaps\tA.\tB."])
    reported = list(map(str, checked(project).faults))
    assert "tasks.yml:12: broken.dropout" in reported[0]
    assert "nli/train.tsv:1: label: 'perhaps'" in reported[1]


def test_dev_rows_with_the_texts_of_train_rows_are_counted(project):
    project.rows(
        "nli/dev", ["d1\tno_\tThe barn.\tA barn.", "d2\tno_\tThe barn.\tA barn", "d3\tno_\tA barn.\tThe barn."]
    )
    warnings = list(map(str, checked(project).warnings))
    assert "nli/dev: 1 of 3 rows have the same texts as a train row. Metrics on them measure memory." in warnings


def test_a_file_that_holds_no_row_is_a_fault(project):
    (project.data / "like/dev.tsv").unlink()
    (project.data / "like/dev.csv").write_text("id,label,text\n")
    assert list(map(str, checked(project).faults)) == [
        f"{project.data}/like/dev.csv: no rows. Add rows, or remove the split."
    ]


def test_a_label_without_train_rows_is_a_warning(project):
    project.rows("nli/train", ["n1\tyes_\tA.\tB."])
    assert any("no train row has the label 'no_'" in line for line in map(str, checked(project).warnings))


@pytest.mark.parametrize("mixing", ["round_robin", "proportional", "{name: temperature, tau: 2}", "main_ratio"])
def test_batches_per_epoch_are_those_of_the_sampler(project, tmp_path, mixing):
    project.rows("like/train", [f"l{number}\t1\tA." for number in range(11)])
    run = tmp_path / "run.yml"
    run.write_text(
        f"tasks: t\ndata: d\noutput: o\nencoder: {{run: r}}\nbatch_size: 2\nmixing: {mixing}\n"
        "subset: {like: {fraction: 0.5}}\n"
    )
    report = checked(project, run=run)
    name, options = (mixing, {}) if mixing[0] != "{" else ("temperature", {"tau": 2})
    sampler = SAMPLERS.get(name)({"nli": 3, "like": 5}, {"nli": 2, "like": 2}, seed=1, **options)
    assert report.batches == sampler.batches_per_task(0)
    assert sum(report.batches.values()) == len(sampler)


def test_max_length_faults_and_unknown_tasks_of_a_run_are_reported(project, encoder, tmp_path):
    run = tmp_path / "run.yml"
    run.write_text("tasks: t\ndata: d\noutput: o\nencoder: {run: r}\ntrain: [nli, lik]\n")
    project.define(project.definitions.read_text().replace("max_length: 12", "max_length: 99"))
    reported = "\n".join(map(str, checked(project, encoder=str(encoder), run=run).faults))
    assert f"like.max_length: 99 tokens; {encoder} takes at most 64" in reported
    assert "train: unknown task 'lik'; known: nli" in reported


def test_without_data_only_the_definitions_are_checked(project):
    report = check(project.definitions)
    assert (report.faults, str(report)) == ([], "no errors found")
    with pytest.raises(ConfigError, match="cannot be read"):
        check(project.data / "none.yml")


def test_a_run_s_tasks_are_known_without_their_rows(project, encoder, tmp_path):
    run = tmp_path / "run.yml"
    run.write_text(f"tasks: {project.definitions}\ndata: d\noutput: o\nencoder: {encoder}\ntrain: [nli]\n")
    assert check(project.definitions, run=run).faults == []


def test_faults_are_given_to_editors_and_to_workflows_as_records(project, capsys):
    project.define("nli: {task_type: classification, inputs: [a, b], labels: ['yes', 'no'], metrics: [acuracy]}\n")
    words = ["check", str(project.definitions)]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--json"])
    (found,) = json.loads(capsys.readouterr().out)["faults"]
    assert (found["file"], found["line"], found["key"]) == (str(project.definitions), 1, "nli.metrics")
    assert found["found"].startswith("unknown metric 'acuracy'; known: ")
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--format", "github"])
    line = capsys.readouterr().out
    assert line.startswith(f"::error file={project.definitions},line=1::nli.metrics: unknown metric 'acuracy'")


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [(None, None, "cannot be read: No such file"), ("nli: [a\nb: {", 2, "not valid YAML")],
    ids=["missing", "malformed"],
)
def test_an_editor_gets_a_record_also_of_a_file_that_cannot_be_read(text, line, found, project, tmp_path, capsys):
    file = tmp_path / "other.yml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        main(["check", str(file), "--json"])
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert (fault["file"], fault["line"]) == (str(file), line) and fault["found"].startswith(found)
    with pytest.raises(SystemExit, match="2"):
        main(["check", str(project.definitions), "--run", str(file), "--format", "github"])
    assert capsys.readouterr().out.startswith(f"::error file={file}")


def test_a_run_made_in_python_is_checked_as_one_in_a_file(project, encoder, tmp_path):
    values = {"tasks": "tasks.yml", "data": "d", "output": "o", "encoder": str(encoder), "train": ["nli", "lik"]}
    values |= {"batch_size": 2, "regularizer": {"name": "smart", "epsilom": 1}}
    path = tmp_path / "run.yml"
    path.write_text(json.dumps(values), encoding="utf-8")
    of_file, in_python, in_mapping = (checked(project, run=run) for run in (path, RunConfig(**values), values))
    assert [str(each) for each in of_file.faults] == [f"{path}:1: {each}" for each in in_python.faults]
    assert (in_mapping.faults, in_mapping.batches) == (in_python.faults, in_python.batches)
    fault, *_ = checked(project, run={**values, "epocs": 1}).faults
    assert fault.key == "epocs" and "Did you mean 'epochs'?" in fault.found
    assert [each.key for each in in_python.faults] == ["train", "regularizer.epsilom"]
    assert in_python.batches == of_file.batches == {"nli": 2}
