"""What is named outside the package is there: modules and their names, the installed command, paths in the pages."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("data_prep", "experiments", "benchmarks", "docs", "tests")
SCRIPTS = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))
PATTERNS = ("*.md", "docs/*.md", "*/README.md", "*/*/README.md")
PAGES = sorted(path for pattern in PATTERNS for path in REPOSITORY.glob(pattern))
PATH = re.compile(r"(?<![\w/])(?:mtdnn|data_prep|experiments|benchmarks|docs|task_defs)/[\w/.-]+\.(?:py|yml|md|svg)\b")


def imported(path):
    """(module, name) for each name that a script takes from the package; the name is None for `import module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] == "mtdnn")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mtdnn":
            yield from ((node.module, alias.name) for alias in node.names)


def is_there(module, name):
    """Whether `from module import name` works; importing nothing heavier than the module itself."""
    if importlib.util.find_spec(module) is None:
        return False
    return name is None or hasattr(importlib.import_module(module), name) or is_module(f"{module}.{name}")


def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_a_script_imports_from_the_package_is_there(script):
    assert [pair for pair in imported(script) if not is_module(pair[0]) or not is_there(*pair)] == []


def test_the_installed_command_is_there():
    (place,) = re.findall(r"console_scripts.*?mtdnn = ([\w.:]+)", (REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    module, function = place.split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_paths_in_a_page_are_there(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    missing = [path for path in PATH.findall(text) if not (REPOSITORY / path).exists()]
    assert missing + [link for link in links if not (page.parent / link).exists()] == []
