"""What the benchmark of the switches computes: steps of a run each way, and its table. No time decides anything."""

import pytest

from benchmarks import switches
from benchmarks.small_encoder import save_encoder
from benchmarks.switches import WAYS, WITH, Cost
from mtdnn.config.tasks import load_task_defs
from mtdnn.data.prepro import prepare


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(a tiny encoder, a folder with rows of RTE)."""
    folder = tmp_path_factory.mktemp("switches")
    words = [f"w{number}" for number in range(40)]
    save_encoder(folder / "encoder", "tiny", words)
    (folder / "data" / "rte").mkdir(parents=True)
    labels = load_task_defs(switches.TASKS)["rte"].labels
    for split in ("train", "dev"):
        lines = [f"{n}\t{labels[n % 2]}\t{' '.join(words[:n])}\t{words[n]}" for n in range(2, 34)]
        (folder / "data" / "rte" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "encoder", folder / "data"


@pytest.mark.parametrize("name", WAYS)
def test_each_way_takes_steps_of_a_run(small, tmp_path, name):
    encoder, data = small
    prepare({"rte": load_task_defs(switches.TASKS)["rte"]}, data=data, encoder=encoder, out=tmp_path)
    given = {"tasks": switches.TASKS, "data": str(tmp_path), "encoder": str(encoder), "output": "unused"}
    with switches.run_of_steps(name, {**given, "train": ["rte"], "batch_size": 16}, 2, 1) as take:
        costs = [take(), take()]
    assert all(cost.seconds > 0 and cost.processor > 0 and cost.faults >= 0 for cost in costs)


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_way(small, capsys):
    encoder, data = small
    switches.main(["--encoder", str(encoder), "--data", str(data), "--steps", "1", "--repeats", "2", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == list(WAYS)
    assert lines[-1] == "rte in float32, batches of 16; 1 threads; 2 turns of 1 steps"


def test_ratios_of_the_table_are_medians_of_the_turns_own():
    rounds = {
        WITH: [Cost(1.0, 0.5, 10), Cost(2.0, 1.0, 10), Cost(4.0, 2.0, 1000)],
        "without kept memory": [Cost(1.5, 1.0, 2000), Cost(2.0, 1.1, 3000), Cost(8.0, 6.0, 1000)],
    }
    with_all, without = (line.split() for line in switches.report(rounds).splitlines()[1:])
    assert with_all == ["with", "all", "2.000", "1.000", "1.000", "1.000–1.000", "10"]
    # time 1.5, 1, 2; processor 2, 1.1, 3, whose quartiles are half way between neighbours
    assert without == ["without", "kept", "memory", "2.000", "1.500", "2.000", "1.550–2.500", "2,000"]


def test_one_turn_alone_has_no_spread():
    assert switches.quartiles([1.25]) == [1.25, 1.25, 1.25]
