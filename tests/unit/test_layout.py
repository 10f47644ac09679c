"""Imports point upwards, names cost nothing to import, and every module has its place in the order of reading."""

import ast
import graphlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mtdnn"

READING_ORDER = """
    errors columns files registry seeding yaml_source legacy task_def run_config run_folder
    batch counts ragged windows products losses crf metrics records metrics_tokens metrics_answers metrics_ranking heads
    task_types subset
    data.row_source data.text_rows data.tables data.rows
    data.tokenizing data.arrow data.manifest data.encode data.split_faults data.prepro data.store data.collate
    data.row_stream data.samplers data.check data.loaders
    dropout packing allocator encoder model
    regularizers objective optim
    checkpoint initialisation recorder evaluation distillation export trainer progress
    run_check study_table statistics study_grid study_cells study_launchers study_plan study_checks study
    agreement report_data report_document report_pictures report_parts report_study report
    run assemble study_commands schema cli_options cli __main__
"""
"""A module imports only from those before it. `task_types` and `regularizers` are folders of plug-ins; `base` comes
first there, and the others import from each other in no circle."""

WITHOUT_TORCH = """
    errors registry seeding yaml_source legacy task_def run_config metrics subset
    data.rows data.samplers run_folder statistics study report study_commands cli_options cli
"""
"""Modules that must import at once, for `--help`, `check` and `report`; NumPy is allowed."""

PLUG_INS = ("task_types", "regularizers")


def modules():
    paths = (path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


def imports_of(path):
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    known = modules()
    return {name.removeprefix("mtdnn.") for name in found if name.removeprefix("mtdnn.") in known and "mtdnn" in name}


def place(module):
    """The rank of a module, or of the folder of plug-ins it lies in."""
    folder = module.split(".")[0]
    return READING_ORDER.split().index(folder if folder in PLUG_INS else module)


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_only_from_those_before_it(module):
    imported = imports_of(modules()[module])
    assert [other for other in imported if place(other) > place(module)] == []
    assert not (module.endswith(".base") and [other for other in imported if place(other) == place(module)])


def test_no_imports_go_in_a_circle():
    graph = {module: imports_of(path) for module, path in modules().items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_the_package_imports_nothing_from_the_folders_around_it():
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"data_prep", "experiments", "tests", "benchmarks"}


def test_light_modules_import_no_heavy_library():
    heavy = ["torch", "transformers", "datasets", "sklearn", "scipy", "matplotlib"]
    imports = "\n".join(f"import mtdnn.{module}" for module in WITHOUT_TORCH.split())
    code = f"import sys\n{imports}\nprint([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_help_imports_neither_torch_nor_pydantic():
    code = (
        "import sys; from mtdnn.cli import main; assert main(['--help']) == 0;"
        "sys.exit(str([name for name in ('torch', 'numpy', 'pydantic', 'jsonargparse') if name in sys.modules]))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "[]\n"


def test_help_answers_in_under_half_a_second():
    """Of processor time, as other processes may keep the machine busy; the command waits for nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "mtdnn", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5
