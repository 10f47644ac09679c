"""The script that runs the benchmarks of a GPU: its rows, its commands and its tables."""

import argparse

import numpy as np
import torch

from benchmarks import attention, on_gpu
from benchmarks.plain_loop import read_rows
from mtdnn.columns import table
from mtdnn.execution.attention import attend_by_group, attend_with_fast_dropout
from mtdnn.execution.ragged import attend_by_squares


def test_aligned_columns_become_a_markdown_table_with_its_empty_cells():
    printed = table([["way", "MFU", "peak memory, MiB"], ["a plain loop", "", "3"], ["mtdnn", "40 %", ""]])
    assert on_gpu.markdown(f"{printed}\n\n2 rounds\n") == (
        "| way | MFU | peak memory, MiB |\n|---|---|---|\n| a plain loop |  | 3 |\n| mtdnn | 40 % |  |\n\n2 rounds"
    )
    assert on_gpu.markdown("4 rows\n| a | b |\n|---|---|\n") == "4 rows\n\n| a | b |\n|---|---|"
    assert on_gpu.markdown("one line\n") == "one line"


def test_rows_have_about_the_lengths_of_the_task(tmp_path):
    on_gpu.write_glue_rows(tmp_path, ["rte"], ["ab", "cd"])
    rows = read_rows(tmp_path / "rte" / "train.tsv")
    assert len(rows) == on_gpu.ROWS["train"] and {row.label for row in rows} == {"entailment", "not_entailment"}
    words = np.median([len(" ".join(row.texts).split()) for row in rows])
    assert abs(words * on_gpu.TOKENS_OF_A_WORD - 56) < 5  # RTE's median


def test_every_command_names_the_device_and_only_the_chosen_ones_run():
    given = argparse.Namespace(
        encoder="e", data="d", device="cuda", shape="base", quick=False, peak_tflops=989.0, only=list(on_gpu.NAMES)
    )
    found = on_gpu.commands(given)
    assert {words[0] for words in found.values()} == set(on_gpu.NAMES)
    assert all(words[words.index("--device") + 1] == "cuda" for words in found.values())
    given.only = ["memory"]
    assert list(on_gpu.commands(given)) == ["memory"]


def test_attention_is_measured_by_the_function_that_a_value_stands_for():
    case = attention.Case("mrpc", "float32", 0.1)
    given = argparse.Namespace(device="cpu", batches=2, rows=3, heads=2, size=8)
    batches = attention.batches_of(case, given)
    assert [len(layout.lengths) for layout, _ in batches] == [3, 3]
    assert batches[0][1][0].shape == (sum(batches[0][0].lengths), 2, 8)
    assert attention.chosen("auto", case, batches[0])[0] is attend_with_fast_dropout
    assert attention.chosen("squares", case, batches[0])[0] is attend_by_squares
    assert attention.chosen("auto", attention.Case("mrpc", "float32", 0.0), batches[0])[0] is attend_by_group
    costs = {"padded": [attention.Cost(2.0)], "squares": [attention.Cost(1.0, 2**21)]}
    lines = attention.report(costs, {"padded": "p", "squares": "s"}, case)
    assert lines[1] == ["mrpc, float32, dropout 0.1", "squares", "s", "1,000.00", "0.50", "2"]
    found = attention.cost("squares", case, batches, torch.device("cpu"))
    assert found.seconds > 0 and all(leaf.grad is None for _, leaves in batches for leaf in leaves)
