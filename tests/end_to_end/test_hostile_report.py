"""The page of a run whose rows, labels and ids are HTML does nothing of what they say, in a browser too."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.reference.small_world import PREPRO, make_world, succeed

ACT = "document.documentElement.setAttribute('data-acted','1')"
TEXTS = [
    f"<script>{ACT}</script>",
    f"<img src=x onerror={ACT}>",
    f'"><svg onload={ACT}>',
    f"' onmouseover='{ACT}' autofocus onfocus='{ACT}' x='",
    f"</style></title></textarea><script>{ACT}</script>",
    f"<a href=\"javascript:{ACT}\">a</a><iframe srcdoc='<script>parent.{ACT}</script>'></iframe>",
    f"<!--</p><script>{ACT}</script>-->]]>",
    f"{{{{ {ACT} }}}}{{% print 1 %}}",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """report.html of a run in which all that a stranger chooses is HTML."""
    world = make_world(tmp_path_factory.mktemp("hostile") / "world")
    labels = [TEXTS[0], TEXTS[1]]
    blocks = yaml.safe_load((world / "tasks.yml").read_text(encoding="utf-8"))
    blocks["nli"]["labels"] = labels
    (world / "tasks.yml").write_text(yaml.safe_dump({"nli": blocks["nli"]}), encoding="utf-8")
    for split in ("train", "dev"):
        pairs = [(text, labels[number % 2], TEXTS[number - 1]) for number, text in enumerate(TEXTS)]
        lines = (f"{ACT}<b>{number}\t{label}\t{one}\t{two}\n" for number, (one, label, two) in enumerate(pairs))
        (world / "data" / "nli" / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    with contextlib.chdir(world):
        shutil.rmtree("prepared")
        succeed(PREPRO)
        succeed("train run.yml --max_steps 2")
        succeed("report run")
    return world / "run" / "report.html"


class Page(HTMLParser):
    """The handlers, scripts and links of a page, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.active: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.active += [name for name, _ in attrs if name.startswith("on") or name == "srcdoc"]
        self.active += [value for name, value in attrs if name in ("href", "src") and (value or "").startswith("java")]
        self.active += [tag] if tag in ("iframe", "img", "object", "embed") else []

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_texts_labels_and_ids_are_shown_as_they_are_and_nothing_of_them_is_markup(page: Path) -> None:
    found = Page(page.read_text(encoding="utf-8"))
    assert found.active == []
    shown = "".join(found.texts)
    for text in TEXTS[:2]:  # the labels; and of the rows those that are shown among the errors
        assert text in shown
    assert f"{ACT}<b>" in shown


def test_a_browser_runs_nothing_of_them(page: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no browser is installed")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    opened = {}
    control = tmp_path / "control.html"  # a page that does act, so that the browser is known to run scripts
    control.write_text(f"<html><body>{TEXTS[0]}</body></html>", encoding="utf-8")
    for each in (control, page):
        done = subprocess.run([*words, each.as_uri()], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        opened[each] = done.stdout[: done.stdout.index(">", done.stdout.index("<html")) + 1]
    assert "data-acted" in opened[control]
    assert "data-acted" not in opened[page], json.dumps(opened[page])
