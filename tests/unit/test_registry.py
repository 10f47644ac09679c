"""Words become objects; a wrong word names the right ones."""

import sys
from abc import ABC, abstractmethod

import pytest

from mtdnn.errors import ConfigError
from mtdnn.registry import Registry, own_words

pytestmark = pytest.mark.usefixtures("files_may_name_code")


@pytest.fixture
def colours():
    registry = Registry("colour")
    registry.register("red")("RED")
    registry.register("blue")("BLUE")
    return registry


def test_a_registered_name_gives_its_object(colours):
    assert colours.get("red") == "RED"


def test_the_decorator_leaves_its_object_as_it_is():
    registry = Registry("function")

    @registry.register("double")
    def double(number):
        return 2 * number

    assert double(2) == 4
    assert registry.get("double") is double


def test_names_come_in_alphabetical_order(colours):
    assert colours.names() == list(colours) == ["blue", "red"]
    assert "red" in colours and "green" not in colours


def test_a_second_object_of_the_same_name_is_refused(colours):
    with pytest.raises(ValueError, match="colour 'red' is registered twice: RED and OTHER"):
        colours.register("red")("OTHER")


def test_an_unknown_name_is_reported_with_its_place_and_the_known_names(colours):
    with pytest.raises(ConfigError) as caught:
        colours.get("bluue", where="a.yml:3", key="paint")
    assert str(caught.value) == "a.yml:3: paint: unknown colour 'bluue'; known: blue, red. Did you mean 'blue'?"


def test_a_dotted_name_is_imported(colours):
    from pathlib import PurePath

    assert colours.get("pathlib.PurePath") is PurePath


@pytest.mark.parametrize("path", ["no_such_module_anywhere.Red", "pathlib.NoSuchThing"])
def test_a_dotted_name_that_leads_nowhere_is_reported(colours, path):
    with pytest.raises(ConfigError, match=rf"a.yml:3: cannot import colour '{path}': .*Known by name: blue, red"):
        colours.get(path, where="a.yml:3")


def test_modules_that_register_more_are_imported_when_a_name_is_first_asked_for(tmp_path, monkeypatch):
    (tmp_path / "more_plug_ins.py").write_text("import tests_registry\ntests_registry.IT.register('far')(2)\n")
    registry = Registry("thing", modules=("more_plug_ins",))
    registry.register("near")(1)
    holder = type(sys)("tests_registry")
    holder.IT = registry
    monkeypatch.setitem(sys.modules, "tests_registry", holder)
    monkeypatch.syspath_prepend(tmp_path)
    assert "more_plug_ins" not in sys.modules
    assert registry.names() == ["far", "near"] and registry.get("far") == 2


class Shape(ABC):
    """What the plug-ins of the next tests derive from; they have an area or an outline."""

    def area(self):
        raise NotImplementedError

    def outline(self):
        raise NotImplementedError

    @abstractmethod
    def corners(self):
        """Every shape has it."""


class Square(Shape):
    name = "square"

    def outline(self):
        return 4

    def corners(self):
        return 4


class Blob(Shape):
    """It lacks all but a name."""

    name = "blob"


class Stone:
    """No shape."""


stone = Stone()


@pytest.fixture
def shapes():
    registry = Registry("shape", base=lambda: Shape, own=("name", "area or outline"))
    registry.register("square")(Square)
    return registry


def told_of(registry, path):
    with pytest.raises(ConfigError) as caught:
        registry.get(path, where="a.yml:3", key="it")
    (line,) = caught.value.lines
    return line


def test_a_dotted_name_of_the_right_kind_is_taken(shapes):
    assert shapes.get(f"{__name__}.Square") is Square


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("os.path.join", "a function"),
        ("os.getcwd", "a function"),
        ("os.path", "a module"),
        ("collections.OrderedDict", "a class derived from dict"),
        (f"{__name__}.Stone", "a class derived from object"),
        (f"{__name__}.stone", f"an object of the class {__name__}.Stone"),
    ],
)
def test_a_dotted_name_of_another_kind_is_reported_with_what_is_expected(shapes, path, what):
    expected = f"a class derived from {__name__}.Shape"
    assert told_of(shapes, path) == f"a.yml:3: it: '{path}' is {what}; expected {expected}. Known by name: square."


@pytest.mark.parametrize(
    ("name", "lacking"), [("Shape", "name, area or outline, corners"), ("Blob", "area or outline, corners")]
)
def test_a_class_that_lacks_what_all_have_is_reported_with_what_it_lacks(shapes, name, lacking):
    found = f"'{__name__}.{name}' does not define {lacking}; every shape has to"
    assert told_of(shapes, f"{__name__}.{name}") == f"a.yml:3: it: {found}. Known by name: square."


def test_a_function_that_takes_other_arguments_is_refused():
    registry = Registry("join", takes=("head", "tail"))
    registry.register("glue")(lambda head, tail: head + tail)
    for path, what in (
        ("os.getcwd", "a function"),
        (f"{__name__}.Stone", "a class derived from object"),
        (f"{__name__}.stone", f"an object of the class {__name__}.Stone"),
    ):
        found = f"'{path}' is {what}; expected a function of (head, tail)"
        assert told_of(registry, path) == f"a.yml:3: it: {found}. Known by name: glue."
    assert registry.get("operator.add")(2, 3) == 5
    assert registry.get("builtins.max")(2, 3) == 3  # written in C, it does not tell its arguments


@pytest.mark.parametrize("path", [".Red", "...", "pathlib."])
def test_a_dotted_name_of_nothing_but_a_dot_is_reported(colours, path):
    found = "a name before or after a dot is missing; expected package.module.Name. Add it."
    assert told_of(colours, path) == f"a.yml:3: it: cannot import colour '{path}': {found} Known by name: blue, red."


@pytest.mark.parametrize(
    ("code", "line", "raised"),
    [
        ("def red(:\n", 1, "SyntaxError: invalid syntax (broken_plug_in.py, line 1)"),
        ("one = 1\ntwo = one / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('two\\nlines')\n", 2, "SystemExit: two lines"),
        ("import textwrap\ntextwrap.indent(1, 2)\n", 2, "AttributeError: 'int' object has no attribute 'splitlines'"),
        ("def f():\n    return 1 / 0\nf()\n", 2, "ZeroDivisionError: division by zero"),
        ("import no_such_module_anywhere\n", 1, "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("import sys\nsys.no_such_thing\n", 2, "AttributeError: module 'sys' has no attribute 'no_such_thing'"),
    ],
)
def test_a_module_that_fails_is_reported_with_its_line(colours, tmp_path, monkeypatch, code, line, raised):
    (tmp_path / "broken_plug_in.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    found = f"cannot import colour 'broken_plug_in.Red': {tmp_path / 'broken_plug_in.py'}:{line}: {raised}"
    reported = told_of(colours, "broken_plug_in.Red")
    assert reported == f"a.yml:3: it: {found}. Fix the module. Known by name: blue, red."


@pytest.mark.parametrize(
    ("path", "missing", "fix"),
    [
        (
            "plug.logit_norm.LogitNorm",
            "No module named 'plug'",
            "Install its package, or add its folder to PYTHONPATH (PYTHONPATH=. for the current folder).",
        ),
        ("json.logit_norm.LogitNorm", "No module named 'json.logit_norm'", "Check the path."),
        ("json.LogitNorm", "module 'json' has no attribute 'LogitNorm'", "Check the path."),
    ],
)
def test_what_is_not_there_is_reported_with_what_to_do(colours, path, missing, fix):
    reported = told_of(colours, path)
    assert reported == f"a.yml:3: it: cannot import colour '{path}': {missing}. {fix} Known by name: blue, red."


def test_a_value_that_contains_itself_is_looked_into_once():
    """As YAML allows in a flag: `&a [word, *a]`."""
    given = ["no.such:Place"]
    given.append(given)
    with own_words({"flag": given}), pytest.raises(ConfigError, match=r"no\.such"):
        Registry("colour").get("no.such:Place")
