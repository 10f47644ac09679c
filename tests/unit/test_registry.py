"""Words become objects; a wrong word names the right ones."""

import sys

import pytest

from mtdnn.errors import ConfigError
from mtdnn.registry import Registry


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


def test_an_unknown_name_is_told_with_its_place_and_the_known_names(colours):
    with pytest.raises(ConfigError) as caught:
        colours.get("bluue", where="a.yml:3", key="paint")
    assert str(caught.value) == "a.yml:3: paint: unknown colour 'bluue'; known: blue, red. Did you mean 'blue'?"


def test_a_dotted_name_is_imported(colours):
    from pathlib import PurePath

    assert colours.get("pathlib.PurePath") is PurePath


@pytest.mark.parametrize("path", ["no_such_module_anywhere.Red", "pathlib.NoSuchThing"])
def test_a_dotted_name_that_leads_nowhere_is_told(colours, path):
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
