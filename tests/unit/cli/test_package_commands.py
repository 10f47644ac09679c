"""`mtdnn list`, `convert`, `completion`, `-q` and `-v`, and what a wheel has."""

import ast
import json
import logging
import re
import subprocess
import sys
import zipfile

import pytest
import yaml

from mtdnn.cli.main import COMMANDS, main
from mtdnn.cli.package_commands import Kind, registry_of
from mtdnn.cli.verbosity import NORMAL, QUIET, VERBOSE, shows_progress, verbosity, without_verbosity
from mtdnn.config.shipped import definitions_file, shipped_definitions
from mtdnn.config.tasks import load_task_defs
from tests.conftest import REPOSITORY

REGISTRIES = [kind for kind in Kind.__args__ if kind not in ("tasks", "converters")]


def listed(kind, capsys):
    assert main(["list", kind, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_each_kind_lists_its_registry_with_descriptions(kind, capsys):
    found = listed(kind, capsys)
    assert list(found) == registry_of(kind).names() and all(found.values())


def test_lists_of_tasks_and_converters_are_the_files_of_the_repository(capsys):
    assert list(listed("tasks", capsys)) == sorted(path.stem for path in (REPOSITORY / "task_defs").glob("*.yml"))
    found = listed("converters", capsys)
    assert {"glue", "superglue", "squad", "demo"} < set(found) and "rows_out" not in found


def test_definitions_are_found_by_name_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert definitions_file("glue") == shipped_definitions()["glue"]
    assert list(load_task_defs("demo")) == list(load_task_defs(REPOSITORY / "task_defs" / "demo.yml"))
    (tmp_path / "glue").write_text("own:\n  task_type: regression\n", encoding="utf-8")
    assert list(load_task_defs("glue")) == ["own"]
    assert definitions_file("unknown.yml") == "unknown.yml"
    assert definitions_file("folder/glu") == "folder/glu"


@pytest.mark.parametrize(
    ("word", "end"),
    [("glu", "wikiqa. Did you mean 'glue'?"), ("gleu.yml", "Did you mean 'glue'?"), ("x", "Check the path.")],
)
def test_a_misspelt_name_of_definitions_gets_the_nearest(word, end, capsys):
    assert main(["check", word]) == 2
    line = capsys.readouterr().err.rstrip()
    assert line.startswith(f"{word}: no such file, nor definitions of this name; known: anli,") and line.endswith(end)


def test_a_converter_runs_by_name_with_its_own_flags(tmp_path, capsys):
    source = tmp_path / "source" / "RTE"
    source.mkdir(parents=True)
    header, row = "index\tsentence1\tsentence2\tlabel\n", "0\tIt rained.\tIt was wet.\tentailment\n"
    for split in ("train", "dev"):
        (source / f"{split}.tsv").write_text(header + row, encoding="utf-8")
    (source / "test.tsv").write_text("index\tsentence1\tsentence2\n0\tIt rained.\tIt was wet.\n", encoding="utf-8")
    assert main(["convert", "glue", "--input", str(source.parent), "--out", str(tmp_path / "data")]) == 0
    written = (tmp_path / "data" / "rte" / "train.tsv").read_text(encoding="utf-8")
    assert written == "train-0\tentailment\tIt rained.\tIt was wet.\n"
    assert "1 rows written" in capsys.readouterr().out


def test_an_unknown_converter_is_an_error_with_the_nearest_name(capsys):
    assert main(["convert", "glu", "--input", "x"]) == 2
    assert "unknown converter 'glu'; known: anli," in (printed := capsys.readouterr().err)
    assert "Did you mean 'glue'? See mtdnn list converters." in printed


def test_flags_of_verbosity_are_taken_from_anywhere():
    assert without_verbosity(["-q", "score", "x"]) == (["score", "x"], QUIET)
    assert without_verbosity(["score", "x", "--verbose"]) == (["score", "x"], VERBOSE)
    assert without_verbosity(["score", "x"]) == (["score", "x"], NORMAL)
    with verbosity(QUIET):
        assert not shows_progress()
    assert shows_progress()


@pytest.mark.parametrize(
    ("flags", "printed"), [(["-q"], "careful\n"), ([], "careful\nnews\n"), (["-v"], "careful\nnews\ndetail\n")]
)
def test_a_quiet_command_prints_warnings_and_a_verbose_one_details(flags, printed, monkeypatch, capsys):
    def sample() -> str:
        """Log one line of each level."""
        logger = logging.getLogger("mtdnn.sample")
        logger.warning("careful")
        logger.info("news")
        logger.debug("detail")
        return "answer"

    monkeypatch.setitem(COMMANDS, "sample", sample)
    assert main(["sample", *flags]) == 0
    assert capsys.readouterr() == ("answer\n", printed)


def completions(script, *words):
    """What bash completes for the last of these words."""
    show = "_shtab_mtdnn; printf '%s\\n' \"${COMPREPLY[@]}\""
    line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; {show}"
    done = subprocess.run(["bash", "-c", f"source {script}; {line}"], capture_output=True, text=True, check=True)
    return {word.strip() for word in done.stdout.split("\n")} - {""}


def test_bash_completes_commands_flags_and_words(tmp_path, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    assert completions(script, "mtdnn", "eva") == {"evaluate"}
    assert completions(script, "mtdnn", "evaluate", "--ch") == {"--checkpoint"}
    assert completions(script, "mtdnn", "train", "--optimizer.l") >= {"--optimizer.lr", "--optimizer.layer_decay"}
    assert completions(script, "mtdnn", "list", "me") == {"metrics"}
    assert completions(script, "mtdnn", "convert", "super") == {"superglue"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    code = (
        "import os, sys; from setuptools import build_meta; "
        "sys.argv = sys.argv[:1]; print(build_meta.build_wheel(os.environ['OUT']))"
    )
    copy = folder / "source"
    copy.mkdir()
    for name in ("mtdnn", "task_defs", "data_prep", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).symlink_to(REPOSITORY / name)
    environment = {"OUT": str(folder), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code], cwd=copy, env=environment, check=True, capture_output=True)
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_a_wheel_has_what_the_commands_need(wheel):
    found = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    for folder in ("task_defs/*.yml", "data_prep/*.py", "mtdnn/**/*.py", "mtdnn/**/*.jinja"):
        for path in REPOSITORY.glob(folder):
            name = str(path.relative_to(REPOSITORY))
            assert (name if name.startswith("mtdnn") else f"mtdnn/{name}") in found
    assert not any(name.startswith(("tests", "task_defs", "data_prep", "experiments")) for name in found)


def test_an_unpacked_wheel_works_outside_the_repository(wheel, tmp_path):
    """Its own files are used, and neither those of the checkout nor of the current folder."""
    (tmp_path / "data_prep").mkdir()
    (tmp_path / "data_prep" / "__init__.py").write_text("raise SystemExit('of the current folder')", encoding="utf-8")
    environment = {"PYTHONPATH": str(wheel), "PATH": "/usr/bin:/bin", "PYTHONSAFEPATH": "1"}
    script = (
        "import mtdnn, sys; from mtdnn.cli.main import main; from mtdnn.config.shipped import shipped_folder; "
        "print(mtdnn.__file__, shipped_folder('data_prep')); "
        "assert main(['check', 'glue']) == 0; main(['convert', 'glue', '--help'])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == f"{wheel}/mtdnn/__init__.py {wheel}/mtdnn/data_prep"
    assert "no errors found" in done.stdout and "usage: mtdnn convert glue" in done.stdout


def test_the_citation_names_the_version_of_the_package():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    (version,) = re.findall(r'version="([^"]+)"', (REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    assert citation["version"] == version and citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors", "license"} <= set(citation)


@pytest.mark.parametrize(
    "name", [".pre-commit-config.yaml", *(f".github/workflows/{n}.yml" for n in ("tests", "release"))]
)
def test_files_of_the_forge_are_yaml_and_name_commands_that_exist(name):
    """Every `make` target and every script that they name is there."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert yaml.safe_load(text)
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for targets in re.findall(r"run: make ([\w ]+)", text):
        assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets.split())
    for script in re.findall(r"bash (\.ci/\w+)", text):
        assert (REPOSITORY / script).exists()


def test_the_page_of_the_command_line_has_every_extra():
    source = ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    (call,) = [
        node for node in ast.walk(source) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    ]
    (extras,) = [each.value for each in call.keywords if each.arg == "extras_require"]
    page = (REPOSITORY / "docs" / "command_line.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert sorted(shown) == sorted({key.value for key in extras.keys} - {"dev", "docs"})
