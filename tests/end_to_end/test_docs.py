"""Every command, YAML block and Python block of docs/ and the README works as it is shown, on the demo corpora.

Rules for the blocks of a page, which are carried out in order in one folder:

- `sh`: each command runs here, or is in SHOWN_ONLY with the reason, and is then read by the real command line.
- `text` after `sh`: lines that the commands print; "…" is any text. On errors.md the status is 2, elsewhere 0.
- `text` after a paragraph that ends in names of files and a colon: their content.
- `yaml`: the first line says what it is. `# run.yml` is a whole file, written under that name. `# in tasks.yml` is
  added to the task definitions of that name. `# in run.yml` is part of a run, which `mtdnn check` must accept.
- `python`: executed; the blocks of a page share their names.
- no language, in the README alone: the record of a larger run, with its commit.
"""

import argparse
import contextlib
import dataclasses
import io
import re
import shlex
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from transformers import AutoTokenizer, BertConfig, BertModel, TrainingArguments

import data_prep.demo
import mtdnn
from mtdnn.cli.main import COMMANDS, main
from mtdnn.cli.options import call_arguments, run_arguments
from mtdnn.config.tasks import load_task_defs
from mtdnn.study import launchers
from mtdnn.task_types.base import TASK_TYPES
from tests.conftest import REPOSITORY, ROWS

PAGES = [*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "README.md"]
REPORTS = [
    *sorted(REPOSITORY.glob("experiments/*/README.md")),
    *map(REPOSITORY.joinpath, ("benchmarks/README.md", "CONTRIBUTING.md")),
]
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILES = re.compile(r"`([\w./-]+\.(?:tsv|jsonl|txt))`[^`]*")
LANGUAGES = ("sh", "text", "yaml", "python", "{toctree}", "{eval-rst}", "{image}")
HUB_NAME = "bert-base-uncased"
FAILURE = 2  # exit status of a command whose user can mend something

INSTALLS = "installs packages"
MAKES = "installs packages and takes minutes"
PROCESSES = "starts several processes; tests/end_to_end/test_distributed.py and test_study_killed.py do"
CLUSTER = "needs a cluster"
SLURM = "needs SLURM; tests/unit/study/test_slurm.py has commands in its place"
PREPRO = "mtdnn prepro tasks.yml --data data --encoder ./stand-in --out prepared"
SCRIPTS = (
    "export OMP_NUM_THREADS=8",
    'export HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
    "srun torchrun --nnodes $SLURM_NNODES --nproc_per_node 4 --rdzv_id $SLURM_JOB_ID --rdzv_backend c10d "
    "--rdzv_endpoint $HEAD:29500 -m mtdnn train run.yml --resume",
    "mtdnn study study.yml --launcher slurm --gpus 1 --jobs 64 --slurm.partition gpu --slurm.time 240 "
    "--slurm.cpus_per_task 8 --slurm.mem 32",
    f"{PREPRO} --workers 8 --shard $SLURM_ARRAY_TASK_ID/16",
    "sbatch shards.sh",
    f'sbatch --job-name=prepro --dependency=singleton --wrap "{PREPRO} --merge"',
    "srun ray symmetric-run --address $HEAD:6379 --min-nodes $SLURM_NNODES -- "
    "mtdnn study study.yml --launcher ray --gpus 1",
)
RAY = "needs a cluster; tests/end_to_end/test_ray.py has one of two processes, and a stand-in"
ON_RAY = f"{PREPRO} --launcher ray"
OUR_TESTS = "is part of these tests"
GLUE = "needs the files of GLUE or SuperGLUE; tests/end_to_end/test_submit.py runs it on rows of its own"
RUN_GLUE = (
    "python run_glue.py --model_name_or_path ./stand-in --task_name mrpc --do_train --do_eval --max_seq_length 128 "
    "--per_device_train_batch_size 32 --learning_rate 2e-5 --num_train_epochs 3 --output_dir out"
)
NODES = "torchrun --nnodes 2 --node_rank {} --master_addr node0 --master_port 29500 --nproc_per_node 4 "
FITTED = (
    "mtdnn train --tasks experiments/domain_adaptation/tasks_small.yml --data prepared --encoder all-MiniLM-L6-v2 "
    "--output runs/fitted --train scitail --subset.scitail.rows 2000 --epochs 2 --optimizer.lr 1e-4 "
    "--evaluate_every never"
)
GRAPHS = "tests/end_to_end/test_onnx.py does it with a run of four tasks"
SEARCHES = "thirty runs; tests/end_to_end/test_tuning.py has three"
HUB = "needs a login, or a run on the hub; tests/end_to_end/test_hub.py does it against a stand-in"
SHOWN_ONLY = {
    "pip install -c constraints.txt -e .": INSTALLS,
    "pip install 'mtdnn[ray]'": INSTALLS,
    "pip install 'mtdnn[balance]'": INSTALLS,
    "mtdnn average runs/a runs/b runs/c --output runs/mean": "tests/unit/runs/test_average.py has three runs",
    "make demo": MAKES,
    "make test": MAKES,
    "make docs": MAKES,
    RUN_GLUE: "a script of transformers, which is not installed with it",
    "torchrun --standalone --nproc_per_node 2 -m mtdnn train run.yml": PROCESSES,
    "torchrun --standalone --nproc_per_node 4 -m mtdnn train run.yml": PROCESSES,
    "torchrun --standalone --nproc_per_node 4 -m mtdnn train run.yml --resume": PROCESSES,
    "accelerate launch --num_processes 4 -m mtdnn train run.yml": PROCESSES,
    f"{NODES.format(0)}-m mtdnn train run.yml": "needs two machines",
    f"{NODES.format(1)}-m mtdnn train run.yml": "needs two machines",
    "mtdnn study study.yml --jobs 2": PROCESSES,
    "mtdnn study study.yml --jobs 4": PROCESSES,
    "pip install 'mtdnn[ray,slurm]'": INSTALLS,
    "mtdnn study study.yml --launcher slurm --gpus 1 --slurm.partition gpu --slurm.time 240": SLURM,
    **dict.fromkeys(SCRIPTS, SLURM),
    "ray start --head --port 6379": CLUSTER,
    "ray start --address node0:6379": CLUSTER,
    "ray stop": CLUSTER,
    ON_RAY: RAY,
    f"{ON_RAY} --workers 64": RAY,
    "mtdnn study study.yml --launcher ray --gpus 1": CLUSTER,
    "mtdnn study study.yml --launcher ray --jobs 16": CLUSTER,
    "mtdnn train --tasks glue --data prepared --encoder ./stand-in --output runs/glue": GLUE,
    "mtdnn tune run.yml --space space.yml --out search --trials 30": SEARCHES,
    "mtdnn train search/best.yml": SEARCHES,
    "mtdnn push demo/runs/together --repo me/demo --license mit --out look": HUB,
    "mtdnn export demo/runs/together --task demo_nli": "the quickstart does it, with --output",
    "mtdnn export demo/runs/together --format onnx --output graph": GRAPHS,
    "mtdnn export demo/runs/together --format onnx --task demo_nli --int8 --output small": GRAPHS,
    "mtdnn predict graph --task demo_nli,demo_target --input demo/data/demo_nli/dev.tsv --output nli.jsonl": GRAPHS,
    "mtdnn serve demo/runs/together --port 8000": "does not end; tests/end_to_end/test_serve.py asks it",
    "mtdnn push demo/runs/together --repo me/demo --license mit": HUB,
    "mtdnn push demo/runs/together --repo me/nli --task demo_nli --license mit": HUB,
    "mtdnn predict me/demo --task demo_nli --input rows.tsv --output out.jsonl": HUB,
    "mtdnn train run.yml --encoder me/demo": HUB,
    "mtdnn train run.yml --encoder '{run: me/demo@main, heads: keep}'": HUB,
    "mtdnn convert glue --input glue_data --out data": GLUE,
    "mtdnn prepro glue --data data --encoder ./stand-in --out prepared": GLUE,
    "mtdnn submit glue runs/glue --out submission.zip": GLUE,
    "mtdnn submit glue runs/mtl,runs/rte,runs/stsb-1,runs/stsb-2 --out submission.zip": GLUE,
    "mtdnn submit superglue runs/superglue --out superglue.zip": GLUE,
    "mtdnn submit --check submission.zip": GLUE,
    "python -m pytest tests/end_to_end/test_fuzz.py": OUR_TESTS,
    "python -m pytest tests/end_to_end/test_fuzz.py -m slow": OUR_TESTS,
    FITTED: "trains on SciTail, which is not here",
    "python -m experiments.smart_ablation.penalty runs/fitted --data prepared": "measures the run before it",
}
"""Commands that are not run here, and why; their flags are checked all the same."""


class Block(NamedTuple):
    """A fenced block of a page.

    Args:
        line: of its fence in the page.
        files: named at the end of the paragraph before it.
    """

    page: str
    line: int
    language: str
    text: str
    files: tuple[str, ...]

    @property
    def place(self):
        return f"{self.page}:{self.line}"


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        before = text[: found.start()].rstrip().rpartition("\n\n")[2]
        files = tuple(FILES.findall(before)) if before.endswith("`:") else ()
        content = found[2].replace(HUB_NAME, "./stand-in")
        yield Block(page.name, text.count("\n", 0, found.start()) + 1, found[1], content, files)


def commands_of(block):
    """The commands of a block as written, continued lines joined, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = (shlex.split(line, comments=True) for line in lines)
    return [(" ".join(line.split(" #")[0].split()), each) for line, each in zip(lines, words, strict=True) if each]


# -- a folder such as the reader has ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stand_in(demo, tmp_path_factory):
    """A BERT of one layer and 512 positions, in place of the hub's."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(demo.encoder, model_max_length=512)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    folder = tmp_path_factory.mktemp("hub") / "stand-in"
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def reader(demo, stand_in, tmp_path, monkeypatch):
    """A folder as after the quickstart: a clone's files, and the demo's rows, encoder and prepared rows in demo/."""
    for name in ("task_defs", "experiments"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "stand-in").symlink_to(stand_in)
    for name, path in (("data", demo.data), ("encoder", demo.encoder), ("prepared", demo.prepared)):
        shutil.copytree(path, tmp_path / "demo" / name)
    monkeypatch.chdir(tmp_path)
    # A process of its own would import PyTorch again; test_study_killed.py has them.
    monkeypatch.setattr(launchers, "Processes", lambda run_cell, *, jobs: launchers.Here(run_cell))
    return tmp_path


def cut_rows(folder):
    """Leave of the demo's rows as many as the tests of this folder train on."""
    for path in folder.rglob("*.tsv"):
        with path.open(encoding="utf-8") as file:
            lines = list(islice(file, ROWS[path.stem]))
        path.write_text("".join(lines), encoding="utf-8")


# -- one block after the other ---------------------------------------------------------------------------------------


class Page:
    """Carries out the blocks of a page in the current folder."""

    def __init__(self, name):
        self.name, self.names, self.printed, self.fails = name, {}, "", False

    def carry_out(self, blocks):
        for block, following in zip(blocks, [*blocks[1:], None][: len(blocks)], strict=True):
            self.fails = self.name == "errors.md" and following is not None and following.language == "text"
            getattr(self, f"carry_out_{block.language.strip('{}').replace('-', '_') or 'record'}")(block)

    def carry_out_sh(self, block):
        self.printed, commands = "", commands_of(block)
        for number, (line, words) in enumerate(commands):
            if line in SHOWN_ONLY:
                read(words)
                continue
            expected = FAILURE if self.fails and number == len(commands) - 1 else 0
            with captured() as output:
                status = run(words)
            self.printed += output.getvalue()
            assert status == expected, f"{block.place}: {line}\n{self.printed}"

    def carry_out_text(self, block):
        if block.files:
            for name in block.files:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).write_text(block.text, encoding="utf-8")
            return
        printed = [" ".join(line.split()) for line in self.printed.replace("\r", "\n").splitlines()]
        for line in filter(None, (" ".join(line.split()) for line in block.text.splitlines())):
            pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
            assert any(map(pattern.fullmatch, printed)), f"{block.place}: {line!r} is not in\n{self.printed}"

    def carry_out_yaml(self, block):
        first, _, rest = block.text.partition("\n")
        kind, name = re.fullmatch(r"# (in )?([\w./-]+\.yml).*", first).groups()
        assert isinstance(yaml.safe_load(rest), dict), block.place
        if kind is None:
            Path(name).write_text(block.text, encoding="utf-8")
        elif name == "run.yml":
            accepts_part_of_run(yaml.safe_load(rest), block)
        else:
            before = Path(name).read_text(encoding="utf-8") if Path(name).exists() else ""
            Path(name).write_text(before + rest, encoding="utf-8")
            accepts_tasks(name, block)

    def carry_out_python(self, block):
        with captured() as output:
            exec(compile(block.text, block.place, "exec"), self.names)
        self.printed = output.getvalue()

    def carry_out_toctree(self, block):
        """Sphinx's business."""

    carry_out_eval_rst = carry_out_image = carry_out_record = carry_out_toctree


@contextlib.contextmanager
def captured():
    """What is printed within the block, to either stream."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        yield output


def run(words):
    """Exit status of a command, carried out in this process; `> file` at its end is understood."""
    if len(words) > 2 and words[-2] == ">":
        with Path(words[-1]).open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            return run(words[:-2])
    if words[0] == "mtdnn":
        try:
            return main(words[1:])
        except SystemExit as stop:
            return stop.code
    if words[:3] == ["python", "-m", "data_prep.demo"]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words[2:])
            data_prep.demo.main()
        cut_rows(Path(words[words.index("--out") + 1]))
        return 0
    raise AssertionError(f"{shlex.join(words)}: neither run here nor in SHOWN_ONLY")


def accepts_tasks(name, block):
    """`mtdnn check` of the definitions; where rows come from the hub, of the definitions alone."""
    tasks = load_task_defs(name)
    if any(task.source for task in tasks.values()):
        assert [fault for task in tasks.values() for fault in TASK_TYPES.get(task.task_type).faults(task)] == []
        return
    with captured() as output:
        status = run(["mtdnn", "check", name])
    assert status == 0, f"{block.place}: {output.getvalue()}"


def accepts_part_of_run(values, block):
    """`mtdnn check --run` of the part with what every run must have."""
    whole = {"tasks": "task_defs/demo.yml", "data": "demo/prepared", "encoder": "demo/encoder", "output": "runs/part"}
    Path("part.yml").write_text(yaml.safe_dump({**whole, **values}), encoding="utf-8")
    tasks = {**whole, **values}["tasks"]
    with captured() as output:
        status = run(["mtdnn", "check", tasks, "--encoder", "demo/encoder", "--run", "part.yml"])
    assert status == 0, f"{block.place}: {output.getvalue()}"


# -- commands that are shown only ------------------------------------------------------------------------------------


def read(words):
    """Let the real parser read a command that is not run.

    Raises:
        SystemExit, ConfigError: a flag that it does not have.
    """
    name, rest = words[0], words[1:]
    if rest[:1] == ["convert"]:
        read_python(["-m", f"data_prep.{rest[1]}", *rest[2:]])
    elif name == "mtdnn":
        function = COMMANDS[rest[0]]
        (run_arguments if function.__name__ == "train" else call_arguments)(function, rest[1:])
    elif name in READERS:
        READERS[name](rest)
    else:
        raise AssertionError(f"{shlex.join(words)}: nothing here can read it")


def read_pip(words):
    """Its extras are those of setup.py, its files are there."""
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert all(f'"{name}": [' in setup for name in extra.split(","))
    if "-c" in words:
        assert (REPOSITORY / words[words.index("-c") + 1]).exists()


SCRIPT_FLAGS = """
    model_name_or_path task_name dataset_name dataset_config_name max_seq_length pad_to_max_length max_train_samples
    train_file validation_file test_file
"""
OF_VERSION_4 = "overwrite_output_dir warmup_ratio group_by_length"


def read_python(words):
    """A script of the repository has the flags; run_glue.py of transformers, its own and those of TrainingArguments."""
    if words[:2] == ["-m", "pytest"]:
        assert all((REPOSITORY / word).exists() for word in words[2:] if word.endswith(".py")), words
        return
    if words[0] != "run_glue.py":
        script = (
            REPOSITORY.joinpath(*words[1].split(".")).with_suffix(".py") if words[0] == "-m" else REPOSITORY / words[0]
        )
        assert script.exists(), words
        shared = [*script.parent.glob("*.py"), *script.parent.parent.glob("*.py")]  # parsers are
        source = "".join(path.read_text(encoding="utf-8") for path in shared)
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []
        return
    known = {*SCRIPT_FLAGS.split(), *(field.name for field in dataclasses.fields(TrainingArguments))}
    assert [word for word in words if word.startswith("--") and word[2:] not in known] == []


def read_make(words):
    """Each word is a target."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words)


def read_torchrun(words):
    """torchrun's own parser, then that of the command it starts."""
    from torch.distributed.run import get_args_parser

    given = get_args_parser().parse_args(words)
    assert given.module
    read([given.training_script, *given.training_script_args])


def read_accelerate(words):
    """The parser of `accelerate launch`, then that of the command it starts."""
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    given = launch_command_parser().parse_args(words[1:])
    assert given.module
    read([given.training_script, *given.training_script_args])


SBATCH_OPTIONS = {
    *("array", "cpus-per-task", "dependency", "gpus-per-node", "job-name", "mem", "nodes", "ntasks-per-node"),
    *("open-mode", "requeue", "signal", "time", "wrap"),
}
"""The options of sbatch that the scripts use, by its manual."""


def read_sbatch(words):
    """Its options are known; the command that is wrapped is read, the script is one that a page shows."""
    parser = argparse.ArgumentParser()
    for name in SBATCH_OPTIONS:
        parser.add_argument(f"--{name}")
    parser.add_argument("script", nargs="?")
    given = parser.parse_args(words)
    assert bool(given.wrap) != bool(given.script)
    if given.wrap:
        read(shlex.split(given.wrap))
    else:
        assert any(f"`{given.script}`" in page.read_text(encoding="utf-8") for page in PAGES)


def read_ray(words):
    """Ray's own parser, then that of the command after `--`."""
    from ray.scripts.scripts import cli

    ray, _, command = (" ".join(words)).partition(" -- ")
    name, *given = ray.split()
    if name == "symmetric-run":  # it reads its arguments from the command line of the process
        assert {word for word in given if word.startswith("--")} == {"--address", "--min-nodes"} and command
    else:
        cli.commands[name].make_context(name, given)
    if command:
        read(command.split())


def read_export(words):
    """One assignment."""
    assert re.fullmatch(r"[A-Z_]+=.+", words[0])


READERS = {
    "srun": read,
    "sbatch": read_sbatch,
    "ray": read_ray,
    "export": read_export,
    "pip": read_pip,
    "python": read_python,
    "make": read_make,
    "torchrun": read_torchrun,
    "accelerate": read_accelerate,
}


# -- tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_work_in_order(page, reader):
    Page(page.name).carry_out(list(blocks_of(page)))


@pytest.mark.parametrize(
    "block",
    [block for page in PAGES for block in blocks_of(page) if block.text.startswith("#!/bin/bash")],
    ids=lambda block: block.place,
)
def test_scripts_are_valid_for_bash_and_sbatch(block):
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    lines = [line for line in block.text.splitlines()[1:] if line.startswith("#")]
    options = [re.fullmatch(r"#SBATCH --([\w-]+)(?:=\S+)?", line) for line in lines]
    assert lines and all(options)
    assert {option[1] for option in options} <= SBATCH_OPTIONS


def test_every_command_that_is_shown_only_is_still_shown():
    shown = {
        line for page in PAGES for block in blocks_of(page) if block.language == "sh" for line, _ in commands_of(block)
    }
    assert SHOWN_ONLY.keys() - shown == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_in_blocks_that_are_tested(page):
    text = page.read_text(encoding="utf-8")
    records = {""} if page.name == "README.md" else set()
    assert {block.language for block in blocks_of(page)} <= {*LANGUAGES, *records}
    assert re.findall(r"^(?: {4}|\t)\s*(?:\$ )?(?:mtdnn|python|torchrun|make|pip) .*$", FENCE.sub("", text), re.M) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_a_sentence_have_their_flags(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for name, rest in re.findall(r"`mtdnn (\w+)([^`]*)`", text):
        flags = [f"--{word}" for word in re.findall(r"--([\w.]+)", rest)]
        assert name in COMMANDS, f"mtdnn {name}"
        known = known_flags(name)
        assert [flag for flag in flags if flag.split(".")[0] not in known] == [], f"mtdnn {name}{rest}"


@pytest.mark.parametrize("page", REPORTS, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_commands_of_a_report_have_their_flags(page):
    """They take hours and data that is not here, so that they are read only."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ {4}((?:mtdnn|python) .*)$", text, re.MULTILINE):
        read(shlex.split(line, comments=True))
    for line in re.findall(r"`(python [^`…]*)[`…]", text):
        read(shlex.split(line))
    for name, rest in re.findall(r"`mtdnn (\w+)([^`]*)`", text):
        assert {f"--{word}" for word in re.findall(r"--(\w+)", rest)} <= known_flags(name), f"mtdnn {name}{rest}"


def known_flags(name):
    """The flags that `mtdnn <name> --help` lists."""
    with captured() as output, contextlib.suppress(SystemExit):
        main([name, "--help"])
    return set(re.findall(r"--\w+", output.getvalue()))


def test_the_flags_of_run_glue_in_the_table_are_there():
    """In the installed version of transformers, or in the one before."""
    lines = (REPOSITORY / "docs" / "from_run_glue.md").read_text(encoding="utf-8").split("## Flags")[1].splitlines()
    flags = [flag for line in lines if line.startswith("|") for flag in re.findall(r"--(\w+)", line.split("|")[1])]
    known = {*f"{SCRIPT_FLAGS} {OF_VERSION_4}".split(), *(each.name for each in dataclasses.fields(TrainingArguments))}
    assert len(flags) > 30 and [flag for flag in flags if flag not in known] == []


def test_the_readme_shows_the_commands_of_a_whole_project():
    readme = "\n".join(block.text for block in blocks_of(REPOSITORY / "README.md") if block.language == "sh")
    assert set(re.findall(r"^mtdnn (\w+)", readme, re.MULTILINE)) >= {
        "check", "prepro", "train", "evaluate", "predict", "score", "embed", "export", "report",
    }  # fmt: skip


def test_the_page_of_the_python_api_has_every_name_of_the_front_door():
    text = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"\.\. auto\w+:: mtdnn\.(\w+)(?:\(|$)", text, re.MULTILINE))
    assert set(mtdnn.__all__) - documented == {"__version__"}
