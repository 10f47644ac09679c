"""Public functions explain their parameters."""

import ast
import re

from tests.unit.test_layout import modules

NAMED_SHARE = 0.8
"""Of the parameters of public functions with three or more; the rest is for a name that needs no words."""


def public_functions():
    """(module, function, docstring) of every public function and method; a constructor's is with its class's."""
    for module, path in modules().items():
        yield from _functions_in(ast.parse(path.read_text(encoding="utf-8")).body, module, "")


def _functions_in(body, module, of_class):
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _functions_in(node.body, module, ast.get_docstring(node) or "")
        if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            own = ast.get_docstring(node) or ""
            yield module, node, f"{own}\n{of_class}" if node.name == "__init__" else own


def parameters(function):
    """Names of a function's parameters, without `self` and `cls`."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def named_in(docstring):
    """Names with a line in the Args section: `name: …`, or `name, other: …`."""
    section = re.search(r"Args:\n(.*?)(?:\n\S|\Z)", docstring, re.DOTALL)
    lines = re.findall(r"^\s+([\w*, ]+):", section[1], re.MULTILINE) if section else []
    return {name.strip(" *") for line in lines for name in line.split(",")}


def test_most_parameters_of_functions_with_three_or_more_are_named_in_args():
    several = [(parameters(function), named_in(text)) for _, function, text in public_functions()]
    several = [(names, named) for names, named in several if len(names) >= 3]
    total = sum(len(names) for names, _ in several)
    assert total > 500
    assert sum(len(named.intersection(names)) for names, named in several) / total >= NAMED_SHARE
