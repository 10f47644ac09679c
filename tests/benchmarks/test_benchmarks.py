"""What the benchmarks compute besides time: tables, ratios, plans and generated rows. No time decides anything here."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from benchmarks import (
    glue_epoch,
    memory,
    plain_loop,
    predict_throughput,
    prepro,
    scaling,
    small_encoder,
    startup,
    train_throughput,
)
from benchmarks.prepro import made_up_words
from benchmarks.processes import forget_peak, in_fresh_process, peak_resident, resident
from benchmarks.rounds import interleaved, median_and_spread, ratios
from mtdnn.config.tasks import load_task_defs


def tiny_classifier():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=30, **shape, num_labels=3))


def test_every_round_runs_all_ways_and_begins_with_another():
    order = []
    ways = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    rounds = interleaved(ways, 2)
    assert "".join(order) == "cababcbca"
    assert rounds == {"a": [4, 9], "b": [5, 7], "c": [6, 8]}


def test_numbers_are_reported_as_a_median_with_its_spread():
    assert median_and_spread([3.0, 1.0, 2.0]) == "2.00 (1.00–3.00)"
    assert median_and_spread([1234.5], 0) == "1,234"
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_a_function_runs_in_a_process_of_its_own():
    assert in_fresh_process("rounds", "median_and_spread", [1.0, 2.0, 9.0], 1) == "2.0 (1.0–9.0)"
    with pytest.raises(SystemExit, match=r"rounds\.ratios failed with status 1"):
        in_fresh_process("rounds", "ratios", [1.0], [])


def test_the_peak_of_memory_counts_what_was_freed_since_it_was_forgotten():
    forget_peak()
    before = resident()
    np.ones(2**24)  # 128 MiB, freed at once
    assert peak_resident() - before > 100 * 2**20
    forget_peak()
    assert peak_resident() - before < 100 * 2**20


def test_sorted_plain_prediction_gives_its_logits_in_the_order_of_the_file():
    model = tiny_classifier()
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1}, unk_token="[PAD]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")
    lengths = [3, 9, 1, 7, 5]
    rows = [{"input_ids": list(range(1, n + 1)), "attention_mask": [1] * n, "labels": 0} for n in lengths]
    by_file, by_length = (
        plain_loop.predict(model, rows, tokenizer, bf16=False, batch_size=2, sort_by_length=choice)
        for choice in (False, True)
    )
    np.testing.assert_allclose(by_length, by_file, atol=1e-6)  # float order of padded sums


def test_the_table_of_prediction_compares_at_equal_precision():
    rounds = {
        "plain float32": [{"rte": 2.0, "mrpc": 2.0}],
        "plain float32, sorted by length": [{"rte": 1.0, "mrpc": 1.0}],
        "plain bf16": [{"rte": 0.5, "mrpc": 0.5}],
        "plain bf16, sorted by length": [{"rte": 0.4, "mrpc": 0.4}],
        "mtdnn bf16": [{"rte": 0.125, "mrpc": 0.125}],
    }
    lines = predict_throughput.report(rounds, {"rte": 10, "mrpc": 30}).splitlines()
    assert lines[1].split()[2:] == ["5.0", "15.0", "10.0", "1.00", "0.50"]
    assert lines[-1].split() == ["mtdnn", "bf16", "80.0", "240.0", "160.0", "4.00", "3.20"]


def test_the_table_of_starts_leaves_out_importing_torch():
    found = {"seconds": [9.0, 1.0, 0.5, 0.25, 0.125, 0.125], "with_torch": 200 * 2**20, "peak": 300 * 2**20}
    lines = startup.report({10_000: [found], 1_000_000: [found, found]}).splitlines()
    assert lines[0].split() == ["10,000", "rows", "1,000,000", "rows"]
    assert lines[-3].split() == ["beyond", "importing", "torch,", "s", "2.00", "2.00", "(2.00–2.00)"]
    assert lines[-1].split()[-2:] == ["300", "300"]


def test_generated_tasks_are_definitions_with_so_many_rows(tmp_path):
    definitions = small_encoder.write_tasks(tmp_path, {"one": 3, "two": 5}, made_up_words(50))
    assert list(load_task_defs(definitions)) == ["one", "two"]
    assert [len(plain_loop.read_rows(tmp_path / task / "train.tsv")) for task in ("one", "two")] == [3, 5]


def test_batches_for_memory_are_full_and_the_same_in_every_process():
    batches = memory.random_batches(10, 4, steps=5)
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(np.concatenate(batches))) == 8
    np.testing.assert_equal(memory.random_batches(10, 4, steps=1), batches[:1])


def test_memory_is_reported_relative_to_the_plain_loop():
    mebibyte = 2**20
    rounds = {
        "plain": [{"before": 100 * mebibyte, "peak": 300 * mebibyte}],
        "mtdnn": [{"before": 100 * mebibyte, "peak": 150 * mebibyte}],
    }
    lines = memory.report(rounds).splitlines()
    assert lines[2].split() == ["mtdnn", "100", "150", "0.50", "50", "0.25"]


def test_prepro_is_reported_relative_to_the_tokenizer_and_to_fewer_rows():
    few = {"tokenizers": [(2.0, prepro.Peak(2**20))], "prepro": [(1.0, prepro.Peak(2**22))]}
    assert prepro.report(few, 100).splitlines()[-1] == "prepro / tokenizers: 2.00"
    many = {"prepro": [(12.0, prepro.Peak(2**23))]}
    assert (
        prepro.growth({100: few, 1000: many}).splitlines()[1]
        == "1,000 rows: 2.00 times the memory, 1.20 of the time a row"
    )


def test_prepro_on_ray_is_reported_relative_to_one_process_with_the_memory_of_driver_and_workers():
    mebibyte = 2**20
    rounds = {
        "one-process": [(4.0, prepro.Peak(200 * mebibyte, 200 * mebibyte, 0))],
        "ray": [(2.0, prepro.Peak(900 * mebibyte, 150 * mebibyte, 300 * mebibyte))],
    }
    lines = prepro.report(rounds, 1000).splitlines()
    assert lines[2].split() == ["ray", "500", "900", "MiB", "150", "MiB", "300", "MiB"]
    assert lines[3] == "ray / one-process: 2.00"


def test_lines_of_scaling_let_tasks_grow_and_then_rows():
    lines = scaling.sizes([2, 50], [100, 10_000])
    assert [(each.tasks, each.rows) for each in lines] == [(2, 100), (50, 100), (2, 10_000)]
    shares = scaling.Size(3, 10).rows_of_tasks()
    assert list(shares.values()) == [4, 3, 3]


def test_the_ratio_of_scaling_counts_the_plan_of_the_epoch():
    small, large = scaling.Size(2, 100), scaling.Size(50, 100)
    rounds = {small: [scaling.Cost(1e-6, 5e-6, 9e-6)], large: [scaling.Cost(2e-6, 5e-6, 13e-6)]}
    line = scaling.report(rounds, batch_size=10).splitlines()[2]
    assert line.split() == ["50", "100", "2.0", "5.0", "13.0", "1.5", "1.50"]


def test_drawn_lengths_have_the_quantiles_of_their_task():
    lengths = glue_epoch.drawn_lengths(glue_epoch.GLUE["mnli"], 20_000, np.random.default_rng(0))
    found = np.quantile(lengths, glue_epoch.QUANTILES)
    np.testing.assert_allclose(found[:-1], glue_epoch.GLUE["mnli"].lengths[:-1], atol=1.5)  # of 20,000 draws
    assert lengths.max() <= 256


def test_shapes_come_from_the_manifests_of_a_prepared_glue(tmp_path):
    lengths = dict(zip(glue_epoch.QUANTILE_NAMES, range(1, 8), strict=True))
    for task in glue_epoch.GLUE:
        (tmp_path / task / "train").mkdir(parents=True)
        text = json.dumps({"rows": 9, "lengths": {**lengths, "mean": 3.0}})
        (tmp_path / task / "train" / "manifest.json").write_text(text, encoding="utf-8")
    assert glue_epoch.shapes_from(tmp_path)["rte"] == glue_epoch.TaskShape(9, (1, 2, 3, 4, 5, 6, 7))


def test_random_rows_have_two_texts_where_the_task_has():
    tasks = load_task_defs(glue_epoch.TASKS)
    store = glue_epoch.random_store(tasks["mnli"], np.array([4, 2]), 50, np.random.default_rng(0))
    assert store.columns["token_type_ids"].values.tolist() == [0, 0, 1, 1, 0, 1]
    assert len(store) == 2 and set(store.columns["label"]) <= {0, 1, 2}
    single = glue_epoch.random_store(tasks["cola"], np.array([3]), 50, np.random.default_rng(0))
    assert not single.columns["token_type_ids"].values.any()


def test_operations_of_a_forward_pass_are_those_of_its_matrix_products():
    # one layer, H = 2, inner size 3: 4·2·2 + 2·2·3 = 28 weights; 5 tokens in one example: scores and sums over 25 pairs
    config = BertConfig(hidden_size=2, intermediate_size=3, num_hidden_layers=1, num_attention_heads=1)
    assert glue_epoch.forward_operations(config, 5, 25) == 2 * 5 * 28 + 2 * (2 * 25 * 2)


def test_an_epoch_takes_its_tokens_at_the_median_rate():
    config = BertConfig(hidden_size=2, intermediate_size=3, num_hidden_layers=1, num_attention_heads=1)
    speed = glue_epoch.Speed(examples=10, tokens=100, squares=1000, seconds=2.0, memory=3 * 2**20)
    line = glue_epoch.report({"plain": [speed]}, config, tokens=500, examples=40, peak=63_000.0).splitlines()[1]
    # 3 · (2·100·28 + 4·2·1000) = 40,800 in 2 s, of 63,000 a second
    assert line.split() == ["plain", "3", "4.0", "50", "1.00", "32.4%", "10.0", "3"]


def test_the_table_of_training_reports_memory_where_there_is_any():
    rounds = {"plain float32": [train_throughput.Speed(10, 100, 1.0)]}
    rates = {"float32": 6e4, "bf16": 1.0}
    assert train_throughput.report(rounds, 10, rates).splitlines()[1].split()[-2:] == ["1.00", "10%"]
    rounds["mtdnn float32"] = [train_throughput.Speed(10, 150, 1.0, memory=2**20)]
    assert train_throughput.report(rounds, 10, rates).splitlines()[2].split()[-3:] == ["1.50", "15%", "1"]
    rates[train_throughput.ONEDNN] = 2 * rates["float32"]
    assert train_throughput.report(rounds, 10, rates).splitlines()[2].split()[-4:] == ["1.50", "15%", "8%", "1"]
