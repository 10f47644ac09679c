"""Runs pushed to a hub and read back by name, by the real client of the hub against a stand-in of its interface."""

import json
import re

import pytest
import torch
import yaml
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import mtdnn
from mtdnn.cli.main import main
from mtdnn.config.run import EncoderSource
from mtdnn.config.tasks import task_def_from
from mtdnn.metrics.records import read_records
from mtdnn.publishing import card, intervals
from tests.reference.hub import stand_in

PAIR = [("the doctor finds the book", "the doctor never finds the book")]


@pytest.fixture(scope="module")
def hub(demo_run, tmp_path_factory):
    """A stand-in with a run of the demo's four tasks, pushed by the command."""
    with stand_in(tmp_path_factory.mktemp("cache")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 100)  # their ends have their own tests
        assert main(["push", str(demo_run), "--repo", "me/demo", "--license", "mit"]) == 0
        yield server


def test_a_run_is_read_back_by_its_name_with_equal_predictions(hub, demo_run):
    ours, theirs = (mtdnn.open_run(place).predict("demo_nli", PAIR) for place in (str(demo_run), "me/demo"))
    assert ours == theirs


def test_only_weights_settings_and_results_are_uploaded(hub):
    files = hub.files("me/demo")
    assert {"README.md", "run.yml", "tasks.yml", "results.json", "log.jsonl", "best/model.safetensors"} <= set(files)
    assert [name for name in files if re.search(r"predictions|checkpoints|training\.pt|\.arrow|\.tsv", name)] == []


def test_no_folder_of_the_machine_is_in_what_is_uploaded(hub, demo, demo_run):
    texts = {name: content.decode() for name, content in hub.files("me/demo").items() if name.endswith((".yml", ".md"))}
    for place in (demo_run.parent, demo.data, demo.prepared.parent):
        assert [name for name, text in texts.items() if str(place) in text] == []


def test_the_folder_of_an_earlier_run_is_not_in_the_card(demo_run):
    run, earlier = mtdnn.open_run(demo_run), "/home/me/secret/start"
    config = run.config.model_copy(update={"encoder": EncoderSource(run=earlier)})
    for text in (card._settings(config, whole=True), card._opening(config, run.tasks, whole=True)):
        assert "start" in text and "secret" not in text


def test_no_name_or_label_has_a_meaning_in_the_markdown_of_a_card(demo_run):
    run = mtdnn.open_run(demo_run)
    task = run.tasks["demo_nli"].model_copy(update={"labels": ("a|b*c*", "<b>"), "inputs": ('say "x"',)})
    assert r"| a\|b\*c\*, &lt;b> |" in card._task_table({"demo_nli": task})
    assert r'[("say \"x\" …",)]' in card._usage("me/demo", {"demo_nli": task}, whole=True)
    config = run.config.model_copy(update={"encoder": "a/b/`tiny`"})
    opening = card._opening(config, run.tasks, whole=True)
    assert "fine-tuned from `` `tiny` ``" in opening
    assert r"Licence: my_own\*\*." in card._limits(config, run.tasks, "my_own**", checkpoint="best")


def test_the_code_in_a_card_reads_a_row_as_the_task_does():
    """A choice became the tokenizer's `text_target`, and a decoder a classifier with a new head."""
    blocks = {
        "g": {"task_type": "generation", "inputs": ["text"]},
        "c": {"task_type": "multiple_choice", "inputs": ["story", "question", "choice"]},
        "r": {"task_type": "ranking", "inputs": ["question", "candidate"]},
        "t": {"task_type": "sequence_labeling", "inputs": ["words"], "labels": ["O", "X"]},
    }
    code = {
        name: card._usage("me/x", {name: task_def_from(name, block)}, whole=False) for name, block in blocks.items()
    }
    assert "AutoModelForSeq2SeqLM.from_" in code["g"] and "model.generate(**inputs)" in code["g"]
    assert 'tokenizer("story …", "question … choice …", return_tensors' in code["c"]
    assert 'tokenizer("question …", "candidate …", return_tensors' in code["r"]
    assert "AutoModelForTokenClassification.from_" in code["t"] and 'tokenizer("words …", return' in code["t"]


def test_a_revision_of_a_run_is_read(hub):
    assert mtdnn.open_run(f"me/demo@{hub.head('me/demo')}").step == 6
    with pytest.raises(mtdnn.ConfigError, match="me/demo@v9: contains no run"):
        mtdnn.open_run("me/demo@v9")


def test_the_encoder_is_read_by_name_by_transformers_and_by_a_run(hub, demo, demo_run, tmp_path):
    theirs = AutoModel.from_pretrained("me/demo").eval()
    ours = mtdnn.open_run(demo_run).model.encoder
    ids = torch.arange(5, 15)[None]
    with torch.inference_mode():
        expected = ours(ids, torch.ones_like(ids, dtype=torch.bool))
        torch.testing.assert_close(theirs(ids).last_hidden_state, expected, atol=1e-5, rtol=0)  # packed against padded
    for name, encoder in (("plain", "me/demo"), ("heads", {"run": "me/demo", "heads": "keep"})):
        values = demo.run_values(tmp_path / name, encoder=encoder, max_steps=1, train=["demo_nli"])
        assert mtdnn.train(**values, progress=False)["demo_nli"]["dev"]["rows"] == 24


def test_the_command_predicts_with_a_run_on_the_hub(hub, demo, tmp_path):
    rows, output = demo.data / "demo_nli" / "dev.tsv", tmp_path / "out.jsonl"
    assert main(["predict", "me/demo", "--task", "demo_nli", "--input", str(rows), "--output", str(output)]) == 0
    assert len(read_records(output)) == 24


def test_results_are_not_written_to_the_cache(hub, demo, capsys):
    assert main(["evaluate", "me/demo", "--data", str(demo.prepared)]) == 2
    assert (
        "results would be written to the hub's cache. Copy the run to a folder of your own" in capsys.readouterr().err
    )


def test_one_task_is_pushed_as_a_model_of_transformers(hub, demo_run):
    assert main(["push", str(demo_run), "me/nli", "--task", "demo_nli", "--private"]) == 0
    assert "me/nli" in hub.private
    model = AutoModelForSequenceClassification.from_pretrained("me/nli").eval()
    tokens = AutoTokenizer.from_pretrained("me/nli")(*PAIR[0], return_tensors="pt")
    record = mtdnn.open_run(demo_run).predict("demo_nli", PAIR)["demo_nli"][0]
    with torch.inference_mode():
        predicted = model.config.id2label[int(model(**tokens).logits.argmax())]
    assert predicted == record["prediction"]
    assert "AutoModelForSequenceClassification" in hub.files("me/nli")["README.md"].decode()


def test_the_card_has_what_a_reader_needs(hub, demo_run):
    text = hub.files("me/demo")["README.md"].decode()
    front, body = text.removeprefix("---\n").split("---\n", 1)
    values = yaml.safe_load(front)
    assert (values["license"], values["library_name"]) == ("mit", "mtdnn")
    assert len(values["model-index"][0]["results"]) == 5  # accuracy of three tasks, two correlations of one
    sections = re.findall(r"^## (.*)$", body, re.MULTILINE)
    assert sections == ["How to use it", "Tasks", "Data", "Results", "Settings", "How it was made", "Limits"]
    results = json.loads((demo_run / "results.json").read_text(encoding="utf-8"))
    shown = f"| demo_nli | dev | accuracy | {100 * results['demo_nli']['dev']['accuracy']:.1f}"
    assert shown in body and results["_run"]["commit"] in body
    assert re.search(r"\| demo_nli \| dev \| accuracy \| [\d.]+ \| [\d.]+ to [\d.]+ \| 24 \|", body)
    assert "| demo_nli | train | 60 | 0 | train.tsv |" in body and "Licence: mit." in body


def test_a_stranger_s_run_names_code_only_with_trust(hub, capsys):
    files = dict(hub.files("me/demo"))
    files["tasks.yml"] = files["tasks.yml"].replace(b"task_type: classification", b"task_type: os.path.join", 1)
    hub.commit("stranger/run", files)
    with pytest.raises(mtdnn.ConfigError, match="is not trusted to name code"):
        mtdnn.open_run("stranger/run")


def test_a_push_without_a_login_is_one_line(demo_run, tmp_path, capsys):
    with stand_in(tmp_path, token=None) as server:
        assert main(["push", str(demo_run), "me/demo"]) == 2
        assert server.repositories == {}
    reported = capsys.readouterr().err.strip().splitlines()[-1]
    assert reported.startswith("me/demo: not uploaded: ") and "Log in with `hf auth login`" in reported


def test_a_push_can_be_looked_at_first(demo_run, tmp_path):
    folder = tmp_path / "look"
    assert main(["push", str(demo_run), "me/demo", "--out", str(folder)]) == 0
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\n")
    assert mtdnn.open_run(folder).predict("demo_nli", PAIR) == mtdnn.open_run(demo_run).predict("demo_nli", PAIR)


def test_a_path_is_not_looked_up_on_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    before = len(hub.requests)
    with pytest.raises(mtdnn.ConfigError, match="runs/frist: contains no run"):
        mtdnn.open_run("runs/frist")
    assert len(hub.requests) == before
    with pytest.raises(mtdnn.ConfigError, match=r"me/nothing: contains no run: .*on the hub"):
        mtdnn.open_run("me/nothing")


def test_an_unknown_task_is_refused(demo_run, tmp_path, capsys):
    assert main(["push", str(demo_run), "me/nli", "--task", "demo_nil", "--out", str(tmp_path / "card")]) == 2
    assert "--task: unknown task 'demo_nil'; known: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["demo", "me/demo/x", "me/demo@v1"])
def test_another_name_of_a_repository_is_refused(name, demo_run, capsys):
    assert main(["push", str(demo_run), name]) == 2
    assert f"'{name}' is not user/name. Give both parts." in capsys.readouterr().err
