"""What the benchmark of balancing computes: steps of each way, and its tables. No time decides anything."""

import pytest

from benchmarks import balancing
from benchmarks.balancing import ALIKE, METHODS, SHARED, Cost
from benchmarks.small_encoder import save_encoder
from mtdnn.balancing.base import BALANCERS
from mtdnn.config.tasks import load_task_defs


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(a tiny encoder, a folder with rows of the three tasks)."""
    folder = tmp_path_factory.mktemp("balancing")
    words = [f"w{number}" for number in range(40)]
    save_encoder(folder / "encoder", "tiny", words)
    for task, block in load_task_defs(balancing.TASKS).items():
        if task in balancing.OWN:
            (folder / "data" / task).mkdir(parents=True)
            labels = block.labels or ("1.0", "4.0")
            for split in ("train", "dev"):
                lines = [f"{n}\t{labels[n % 2]}\t{' '.join(words[:n])}\t{words[n]}" for n in range(2, 34)]
                (folder / "data" / task / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "encoder", folder / "data"


def test_every_method_and_every_way_to_share_takes_steps(small, tmp_path):
    encoder, data = small
    assert set(METHODS) == set(BALANCERS)
    runs = balancing.runs_of(tmp_path, str(encoder), data, 8)
    assert list(runs) == [*METHODS, *SHARED] and len(runs["three on copies"]["train"]) == len(ALIKE)
    for name in ("famo", "three on the same rows"):
        with balancing.run_of_steps(runs[name], 1) as take:
            cost = take()
            assert cost.processor > cost.besides > 0


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_way(small, capsys):
    encoder, data = small
    balancing.main(["--encoder", str(encoder), "--data", str(data), "--steps", "1", "--repeats", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:10]] == METHODS
    assert [line.split("  ")[0] for line in lines[12:15]] == list(SHARED)


def test_the_floor_of_a_method_is_a_fixed_step_and_what_it_does_besides():
    """1.32 s over 1.0 + 0.2 s: 1.10; in the second turn 2.2 over 2.0 + 0.2: 1.00. Three tasks: 1.2 and 1.0 of one."""
    rounds = {name: [Cost(1.32, 0.2), Cost(2.2, 0.2)] for name in METHODS} | {"fixed": [Cost(1.0), Cost(2.0)]}
    memory = dict.fromkeys(METHODS, 5 << 20) | {"fixed": 2 << 20}
    (line,) = [line for line in balancing.methods_table(rounds, memory).splitlines() if line.startswith("upgrad")]
    assert line.split("  ")[-1].strip() == "+3" and "1.05 (1.00–1.10)" in line and "1.21 (1.10–1.32)" in line
    shared = {"one": [Cost(1.0), Cost(2.0)], **{name: [Cost(1.2), Cost(2.0)] for name in list(SHARED)[1:]}}
    assert balancing.shared_table(shared).splitlines()[2].endswith("1.10 (1.00–1.20)")
