"""What `make demo` does after the installation: corpora, check, prepro, training alone and together, a small study.

    python -m experiments.demo.run --out demo

Every step is a command that could be typed; it is printed before it runs. Runs that are finished are not run again.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.demo import read_texts, write_demo, write_demo_encoder
from mtdnn.cli.main import main as mtdnn
from mtdnn.columns import table
from mtdnn.config.tasks import TaskDef, load_task_defs
from mtdnn.runs.folder import RunFolder

TASKS = "task_defs/demo.yml"
RUN = "experiments/demo/mtdnn.yml"
STUDY = "experiments/domain_adaptation/demo.yml"


def command(*words: str) -> None:
    """Print an mtdnn command and carry it out; a failure ends the demo."""
    print(f"\n$ mtdnn {shlex.join(words)}", flush=True)
    status = mtdnn(words)
    if status:
        sys.exit(status)


def write_corpora(out: Path) -> None:
    """Rows and a random encoder, as a stranger's would lie there."""
    for report in write_demo(out / "data"):
        print(report)
    write_demo_encoder(out / "encoder", read_texts(out / "data"))


def train(out: Path, name: str, tasks: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """The results of one run: task → split → metric → value."""
    folder = out / "runs" / name
    if not (folder / "results.json").exists():
        places = ("--data", str(out / "prepared"), "--encoder", str(out / "encoder"), "--output", str(folder))
        command("train", RUN, *places, "--train", ",".join(tasks), "--resume")
    return RunFolder(folder).read_results()


def study(out: Path) -> None:
    """How many labels the small task needs, from a random encoder and from one trained on the other tasks."""
    places = ("--output", str(out / "study"), "--encoder", str(out / "encoder"), "--data", str(out / "prepared"))
    command("study", STUDY, *places, "--jobs", "2")
    command("report", str(out / "study"))


def comparison(tasks: dict[str, TaskDef], alone: dict[str, dict], together: dict[str, dict]) -> str:
    """One line per task: its main dev metric when trained alone, when trained with the others, and the difference."""
    lines = [["task", "metric", "alone", "together", "difference"]]
    for name, task in tasks.items():
        metric, split = task.metrics[0], task.splits["dev"][0]
        before, after = alone[name][split][metric], together[name][split][metric]
        lines.append([name, metric, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"])
    return table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything the demo makes")
    out = parser.parse_args().out
    write_corpora(out)
    places = ("--data", str(out / "data"), "--encoder", str(out / "encoder"))
    command("check", TASKS, *places)
    command("prepro", TASKS, *places, "--out", str(out / "prepared"))
    tasks = load_task_defs(TASKS)
    alone = {name: train(out, name, [name])[name] for name in tasks}
    together = train(out, "together", list(tasks))
    print("\nDev metrics of four single-task runs and of one multi-task run:\n")
    print(comparison(tasks, alone, together) + "\n")
    study(out)
    print(f"rows: {out / 'data'}   prepared: {out / 'prepared'}   encoder: {out / 'encoder'}")
    print(f"runs: {out / 'runs'}   (results.json, predictions, log.jsonl, best checkpoint in each)")
    print(
        f"\nTry: mtdnn predict {out / 'runs' / 'together'} --task demo_nli --input {out}/data/demo_nli/dev.tsv "
        "--output nli.jsonl"
    )


if __name__ == "__main__":
    main()
