"""The rooms of the package: imports point downwards between folders, in no circle within one, and cost little.

`ROOMS` is the order of reading (mtdnn/STYLE.md: a folder imports only from folders above it).
"""

import ast
import graphlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mtdnn"

ROOMS = """
    ground config metrics rows tokens execution networks task_types data regularizers balancing training integrations
    runs study report publishing cli
"""
GROUND = ["errors", "columns", "files", "deferred", "registry", "seeding", "batch"]
"""Modules at the root below every room; the front door is on top of all, and the model between two rooms."""
TOP = ("", "__main__")
MODEL_STANDS_BEFORE = "data"

INTERFACE = {"__init__", "base", "declaration", "format", "learner", "predictor"}
"""Files of task_types that are no type."""

NAMES_OF_TYPES = {path.stem for path in (PACKAGE / "task_types").glob("*.py")} - INTERFACE

WITHOUT_TORCH = """
    errors registry seeding config.yaml_source config.legacy config.tasks config.run metrics.base rows.subset
    rows.places tokens.windows task_types.base task_types.classification task_types.span data.encode data.prepro
    data.samplers runs.length runs.row_check runs.folder study.statistics study.scheduler report.write
    cli.study_commands cli.options cli.main
"""
"""Modules that must import at once, for `--help`, `check` and `report`; NumPy is allowed."""


def modules():
    """Dotted name below `mtdnn` → file; `__init__` files stand for their folder, the front door is ""."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path):
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    known = modules()
    inside = {name.removeprefix("mtdnn").removeprefix(".") for name in found if name.split(".")[0] == "mtdnn"}
    return {name for name in inside if name in known and known[name].name != "__init__.py"}


def rank(module):
    """The place of a module's room in the order of reading."""
    rooms = ROOMS.split()
    if module in TOP:
        return len(rooms)
    if module == "model":
        return rooms.index(MODEL_STANDS_BEFORE) - 0.5
    room = module.split(".")[0]
    return rooms.index("ground" if room in GROUND else room)


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_room_imports_only_from_rooms_above_it(module):
    assert [other for other in imports_of(modules()[module]) if rank(other) > rank(module)] == []


@pytest.mark.parametrize("room", sorted({"ground", *(name.split(".")[0] for name in modules() if "." in name)}))
def test_the_files_of_a_room_import_each_other_in_no_circle(room):
    inside = {name: path for name, path in modules().items() if rank(name) == ROOMS.split().index(room)}
    graph = {name: imports_of(path) & inside.keys() for name, path in inside.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_the_page_of_style_has_the_rooms_in_their_order():
    text = (PACKAGE / "STYLE.md").read_text(encoding="utf-8")
    listed = [line.split()[0].rstrip("/") for line in text.split("```text\n")[1].split("```")[0].splitlines()]
    rooms = ROOMS.split()
    rooms.insert(rooms.index(MODEL_STANDS_BEFORE), "model")
    assert listed == [GROUND[0], *rooms[1:]]
    assert all(module in text for module in GROUND)


def test_at_most_eight_modules_lie_at_the_root():
    assert len([path for path in PACKAGE.glob("*.py") if not path.name.startswith("__")]) <= 8


def test_only_the_front_door_and_folders_of_plug_ins_have_code_in_their_init_file():
    full = {path.parent.name for path in PACKAGE.glob("*/__init__.py") if path.stat().st_size}
    assert full <= {"metrics", "task_types", "regularizers", "balancing"}


def test_tests_mirror_the_rooms():
    rooms = {path.name for path in (PACKAGE.parent / "tests" / "unit").iterdir() if path.is_dir()} - {"__pycache__"}
    assert rooms - {"data_prep"} <= set(ROOMS.split())


def test_the_package_imports_nothing_from_the_folders_around_it():
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"data_prep", "experiments", "tests", "benchmarks"}


@pytest.mark.parametrize("module", sorted(name for name in modules() if not name.startswith("task_types")))
def test_nothing_outside_task_types_asks_which_type_it_is(module):
    """By its name or its class: in what types differ is asked of the type, by methods that all have."""
    own_files = {f"task_types.{name}" for name in NAMES_OF_TYPES}
    assert not imports_of(modules()[module]) & own_files
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        assert not [side for side in sides if isinstance(side, ast.Attribute) and side.attr == "task_type"], node.lineno
        reads_old_files = module in ("config.legacy", "config.earlier")
        if not reads_old_files and not module.startswith("networks"):  # some heads have the names of types
            listed = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else sides
            assert not {each.value for each in listed if isinstance(each, ast.Constant)} & NAMES_OF_TYPES, node.lineno


def test_light_modules_import_no_heavy_library():
    heavy = ["torch", "transformers", "datasets", "sklearn", "scipy", "matplotlib"]
    imports = "\n".join(f"import mtdnn.{module}" for module in WITHOUT_TORCH.split())
    code = f"import sys\n{imports}\nprint([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_help_imports_neither_torch_nor_pydantic():
    code = (
        "import sys; from mtdnn.cli.main import main; assert main(['--help']) == 0;"
        "sys.exit(str([name for name in ('torch', 'numpy', 'pydantic', 'jsonargparse') if name in sys.modules]))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "[]\n"


def test_help_answers_in_under_half_a_second():
    """Of processor time, as other processes may keep the machine busy; the command waits for nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "mtdnn", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5
