"""Modules that are imported at first use."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from mtdnn.deferred import deferred, imported_later

PACKAGE = {"__init__.py": "__version__ = '3'\nvalue = [1]\n", "part.py": "", "user.py": "import heavy\n"}


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package that is installed and not imported."""
    for name, text in PACKAGE.items():
        path = tmp_path / "heavy" / name if name != "user.py" else tmp_path / "user_of_heavy.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield "heavy"
    for name in ("heavy", "heavy.part", "user_of_heavy"):
        sys.modules.pop(name, None)


def test_a_deferred_module_is_imported_when_a_name_of_it_is_used(heavy: str) -> None:
    module = deferred(heavy)
    assert not hasattr(module, "__path__") and heavy not in sys.modules
    assert module.value == [1] and heavy in sys.modules
    assert module.value is sys.modules[heavy].value


def test_a_package_imported_later_is_a_stand_in_for_those_who_import_it_meanwhile(heavy: str) -> None:
    with imported_later(heavy):
        import user_of_heavy

        assert importlib.util.find_spec(heavy).name == heavy  # so that it counts as installed
    assert heavy not in sys.modules
    assert user_of_heavy.heavy.value is sys.modules[heavy].value
    assert user_of_heavy.heavy.__version__ == "3"


def test_a_package_imported_later_is_imported_when_used_meanwhile(heavy: str) -> None:
    with imported_later(heavy):
        import user_of_heavy

        assert user_of_heavy.heavy.value == [1]
        module = sys.modules[heavy]
    assert sys.modules[heavy] is module and module.value is user_of_heavy.heavy.value


def test_a_part_of_a_package_imported_later_is_refused_and_can_be_had_afterwards(heavy: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="not a package"), imported_later(heavy):
        import heavy.part
    import heavy.part


def test_nothing_changes_for_a_package_that_is_imported_or_not_installed(heavy: str) -> None:
    with imported_later("no_such_package"):
        assert "no_such_package" not in sys.modules
    with imported_later("pytest"):
        assert sys.modules["pytest"] is pytest


def test_a_model_is_loaded_after_its_tokenizer_in_one_process(demo) -> None:
    code = (
        "import sys; from mtdnn.tokens.loading import load_tokenizer\n"
        f"assert load_tokenizer({str(demo.encoder)!r}).max_positions == 64\n"
        f"from transformers import AutoModel; AutoModel.from_pretrained({str(demo.encoder)!r})\n"
        "from transformers import modeling_rope_utils; import torch; assert torch is sys.modules['torch']\n"
        "assert modeling_rope_utils.torch.ones is torch.ones"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
