"""Runs as ONNX graphs: made by PyTorch's exporter, computed by onnxruntime, predicted from and served like a run."""

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaModel

import mtdnn
from mtdnn.batch import Batch
from mtdnn.cli.main import main
from mtdnn.data.loaders import EvalLoader
from mtdnn.data.store import open_store
from mtdnn.metrics.records import read_records
from mtdnn.publishing.onnx_export import TOLERANCE, Graph, export_onnx
from mtdnn.publishing.onnx_run import open_any, open_onnx

TASKS = ("demo_sentiment", "demo_nli", "demo_similarity", "demo_target")


@pytest.fixture(scope="module")
def exported(demo_run, tmp_path_factory):
    """The demo's four heads in one graph, written by the command."""
    folder = tmp_path_factory.mktemp("onnx") / "all"
    assert main(["export", str(demo_run), "--format", "onnx", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def nli_graph(demo_run, tmp_path_factory):
    """The graph of one task."""
    folder = tmp_path_factory.mktemp("onnx") / "nli"
    export_onnx(mtdnn.open_run(demo_run), ["demo_nli"], folder)
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_logits_equal_the_run_s_on_ragged_rows(name, exported, demo_run, demo):
    """Padded rows of prepared splits, whose lengths and number differ from those the graph was made with."""
    run, graph = mtdnn.open_run(demo_run), open_onnx(exported)
    store = open_store(demo.prepared, run.tasks[name], "dev", tokenizer=run.tokenizer)
    lengths = set()
    for _, batch in EvalLoader(store, run.model.task_types[name], 5, run.tokenizer.pad_token_id):
        lengths |= set(batch.mask.sum(1).tolist())
        with torch.inference_mode():
            expected = run.model(batch)
        torch.testing.assert_close(graph.model.outputs(batch)[name], expected, atol=TOLERANCE, rtol=0)
    assert len(lengths) > 1


def test_the_command_predicts_from_a_folder_as_from_the_run(exported, demo_run, demo, tmp_path):
    rows, found = str(demo.data / "demo_nli" / "dev.tsv"), {}
    for name, place in (("run", demo_run), ("graph", exported)):
        out = tmp_path / f"{name}.jsonl"
        assert (
            main(["predict", str(place), "--task", "demo_nli,demo_similarity", "--input", rows, "--output", str(out)])
            == 0
        )
        found[name] = [read_records(tmp_path / f"{name}.{task}.jsonl") for task in ("demo_nli", "demo_similarity")]
    for ours, theirs in zip(*found.values(), strict=True):
        assert [each["id"] for each in ours] == [each["id"] for each in theirs]
    nli = [[each["prediction"] for each in records[0]] for records in found.values()]
    similarity = [[each["prediction"] for each in records[1]] for records in found.values()]
    assert nli[0] == nli[1] and similarity[0] == pytest.approx(
        similarity[1], abs=1e-3
    )  # logits to 1e-4, on a scale of 5


def test_a_checkpoint_that_the_graph_is_not_of_is_refused(exported, tmp_path, capsys):
    words = ["--task", "demo_nli", "--input", "rows.tsv", "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(exported), *words, "--checkpoint", "last"]) == 2
    assert "--checkpoint: 'last' of an exported graph, which has the weights of best alone." in capsys.readouterr().err


def test_a_folder_needs_nothing_of_the_run(exported, tmp_path):
    """It has the tasks, the tokenizer and the graph; only the tasks of the graph are known."""
    names = {path.name for path in exported.iterdir()}
    assert {"model.onnx", "tokenizer.json", "config.json", "tasks.yml", "run.yml", "export.json"} <= names
    assert list(open_any(exported).tasks) == list(TASKS)
    with pytest.raises(mtdnn.ConfigError, match="an exported graph has no hidden states"):
        open_any(exported).embed([("it rains",)], task="demo_sentiment")


def test_the_tokenizer_in_a_folder_cuts_rows_where_the_run_does(exported, demo_run):
    """For those who run the graph with onnxruntime and transformers alone."""
    run = mtdnn.open_run(demo_run)
    longest = max(run.tasks[name].max_length for name in TASKS)
    tokenizer, text = AutoTokenizer.from_pretrained(exported), "it rains " * longest
    expected = run.tokenizer.cutting_at(longest)([(text,)])["input_ids"].row(0).tolist()
    assert len(expected) == longest == tokenizer.model_max_length
    assert tokenizer(text, truncation=True)["input_ids"] == expected


def test_eight_bit_weights_report_what_they_cost(demo_run, tmp_path, capsys):
    folder = tmp_path / "small"
    words = ["export", str(demo_run), "--format", "onnx", "--task", "demo_nli", "--int8", "--output", str(folder)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    described = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    (loss,) = described["dev"]
    assert (described["weights"], loss["task"], loss["metric"]) == ("int8", "demo_nli", "accuracy")
    results = json.loads((demo_run / "results.json").read_text(encoding="utf-8"))
    assert loss["before"] == pytest.approx(results["demo_nli"]["dev"]["accuracy"])
    assert f"demo_nli  dev    accuracy  {loss['before']:.4f}" in printed and "with 8-bit weights" in printed
    sizes = [float(line.split(" MB")[0].split(" ")[-1]) for line in printed.splitlines() if " MB" in line]
    assert sizes[1] < 0.75 * sizes[0]  # the layers are a third to a quarter; embeddings are in both
    model = open_onnx(folder).model
    batch = Batch(
        "demo_nli", {"input_ids": torch.tensor([[2, 9, 3]]), "mask": torch.ones(1, 3, dtype=torch.bool)}, None, ["0"]
    )
    batch.inputs["token_type_ids"] = torch.zeros(1, 3, dtype=torch.long)
    ours = mtdnn.open_run(demo_run).model
    with torch.inference_mode():
        assert 0 < (model.outputs(batch)["demo_nli"] - ours(batch)).abs().max() < 0.5  # integers, and near


def test_an_export_of_8_bits_that_fails_leaves_no_graph_of_32(demo_run, tmp_path, capsys):
    """It was in the way of the corrected command."""
    words = [
        "export",
        str(demo_run),
        "--format",
        "onnx",
        "--task",
        "demo_nli",
        "--int8",
        "--output",
        str(tmp_path / "g"),
    ]
    assert main([*words, "--data", str(tmp_path / "nowhere")]) == 2
    assert "--data: no dev split of demo_nli" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_heads_that_read_more_than_the_mask_are_refused(demo_run, monkeypatch, tmp_path):
    run = mtdnn.open_run(demo_run)
    monkeypatch.setattr(type(run.model.head_of("demo_nli")), "reads_only_mask", False)
    with pytest.raises(mtdnn.ConfigError, match=r"demo_nli: export: a PooledHead reads more .* Leave this task out"):
        export_onnx(run, ["demo_nli"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_head_may_have_layers_with_buffers(demo_run, tmp_path):
    """They were registered under their path, which no module takes for a name."""
    run = mtdnn.open_run(demo_run)
    head = run.model.head_of("demo_nli")
    head.dropout = torch.nn.BatchNorm1d(head.output.in_features).eval()
    assert export_onnx(run, ["demo_nli"], tmp_path / "graph") < TOLERANCE
    assert list(open_onnx(tmp_path / "graph").model.head_of("demo_nli").buffers()) == []


def test_a_graph_that_ignores_the_types_of_tokens_is_refused(demo_run, tmp_path, monkeypatch):
    forward = Graph.forward
    monkeypatch.setattr(Graph, "forward", lambda self, ids, mask, types: forward(self, ids, mask, 0 * types))
    with pytest.raises(mtdnn.ConfigError, match="demo_nli: export: the graph returns other outputs"):
        export_onnx(mtdnn.open_run(demo_run), ["demo_nli"], tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


def test_positions_that_depend_on_the_padding_are_in_the_graph(demo, tmp_path):
    """RoBERTa counts positions from the padding's id on; tags are one output for each token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo.encoder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40, pad_token_id=tokenizer.pad_token_id, type_vocab_size=1, initializer_range=0.3,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    rows = [{"tokens": "the doctor finds", "label": "O B-X O"}, {"tokens": "rain", "label": "O"}]
    rows = [{"id": str(row), **each} for row, each in enumerate(rows)]
    tasks = {
        "tags": {
            "task_type": "sequence_labeling",
            "inputs": ["tokens"],
            "labels": ["O", "B-X", "I-X"],
            "max_length": 32,
        }
    }
    mtdnn.train(
        tasks=tasks, data={"tags": {"train": rows, "dev": rows}}, encoder=str(tmp_path / "encoder"),
        output=str(tmp_path / "run"), max_steps=1, progress=False,
    )  # fmt: skip
    run = mtdnn.open_run(tmp_path / "run")
    assert export_onnx(run, ["tags"], tmp_path / "graph") < TOLERANCE
    texts = [{"id": "0", "tokens": "the doctor finds rain"}]
    ours, theirs = (each.predict("tags", texts)["tags"] for each in (run, open_onnx(tmp_path / "graph")))
    assert [each["prediction"] for each in ours] == [each["prediction"] for each in theirs]


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        ([], "--task: a model of transformers has one task; known: demo_sentiment, "),
        (["--int8", "--task", "demo_nli"], "--int8: is for --format onnx. Add it."),
        (
            ["--format", "onnx", "--data", "prepared"],
            "--data: measures what 8-bit weights cost, and they are not asked",
        ),
    ],
)
def test_flags_of_the_other_format_are_refused(words, reported, demo_run, tmp_path, capsys):
    assert main(["export", str(demo_run), "--output", str(tmp_path / "x"), *words]) == 2
    assert reported in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "before", "after", "error", "message"),
    [
        (
            "tasks.yml",
            "demo_nli:",
            "other:",
            mtdnn.ConfigError,
            r"tasks\.yml: no task 'demo_nli', which export\.json names",
        ),
        (
            "tasks.yml",
            "- neutral",
            "- neutral\n  - maybe",
            mtdnn.ConfigError,
            r"tasks\.yml: demo_nli: the task has 4 outputs, and model\.onnx 3\. Export the run again",
        ),
        (
            "export.json",
            '"demo_nli": {}',
            '"demo_nli": {"temperature": "warm"}',
            mtdnn.DataError,
            r"export\.json: buffers\.demo_nli\.temperature.*: damaged: .*Export the run again",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_reported(file, before, after, error, message, tmp_path, nli_graph):
    """An added label gave a ValueError at the first prediction."""
    copy = tmp_path / "copy"
    shutil.copytree(nli_graph, copy)
    text = (copy / file).read_text(encoding="utf-8")
    assert before in text
    (copy / file).write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(error, match=message):
        open_onnx(copy)


def test_a_graph_of_another_export_is_reported(exported, nli_graph, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    shutil.copy(nli_graph / "model.onnx", copy / "model.onnx")
    with pytest.raises(mtdnn.ConfigError, match=r"model\.onnx: no output 'demo_sentiment', which export\.json names"):
        open_onnx(copy)


def test_a_damaged_graph_is_one_line(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(mtdnn.ConfigError, match=r"model.onnx: cannot be read: .* Export the run again."):
        open_onnx(copy)
