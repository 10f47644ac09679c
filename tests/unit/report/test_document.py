"""The HTML page of a report: whatever a row, a label, a task or a folder is named, it is text and nothing more."""

import json
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from mtdnn.config.run import RunConfig
from mtdnn.report.document import Document, Heading, Picture, Place, Table, Text, to_html, to_markdown
from mtdnn.report.pictures import Panel, Point, Series, bar_panels, interval_panels, learning_curve, line_panels
from mtdnn.report.write import write_report

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "end of an attribute": "\"><img src=x onerror=f()>' onclick='f()",
    "end of an element": "</td></title></style></text></svg><iframe>",
    "comment": "--> <!-- ]]> <![CDATA[ <b>",
    "template": "{{ title }}{% for x in y %}{# z",
    "entity": "&lt;script&gt; &amp; &#60;",
    "code": "`<script>alert(1)</script>`",
}

TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "nav", "a", "p", "code"}
TAGS |= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption"}
TAGS |= {"svg", "g", "path", "text", "tspan", "defs", "use", "clippath", "rect"}  # as matplotlib draws
VOID = {"meta"}


class Page(HTMLParser):
    """What a browser finds in a page: elements, attributes, texts. Fails where elements do not close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: Counter[tuple[str, str]] = Counter()
        self.texts: Counter[str] = Counter()
        self.comments: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update((name, value or "") for name, value in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update((name, value or "") for name, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts[data] += 1

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


@cache
def drawn(text: str) -> str:
    """A picture in which every word is `text`."""
    points = [Point(1, 0.5), Point(2, 0.7)]
    panel = Panel(text, [Series(text, points), Series("other", points)], text, text)
    single = Panel(text, [Series(text, points[:1]), Series("other", points[:1])], text, text)
    return (
        line_panels([panel], name=text)
        + bar_panels([single], name=text, groups=[text, text])
        + interval_panels([single], name=text)
        + learning_curve(panel, name=text)
    )


def page_of(text: str) -> str:
    """A page with `text` in every place a text may have."""
    table = Table([text, text], [[Place(text, strong=True), Place(text, trend="up", heat=0.5)]], caption=text)
    matrix = Table([text], [[Place(text)]], caption=text, matrix=True)
    blocks = [Heading(text), Heading(text, 3), Text(text), Text(text, note=True), table, matrix]
    return to_html(Document(text, [*blocks, Picture("name", drawn(text), text)]))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_text_adds_no_element_and_no_attribute_and_is_shown_as_it_is(text: str) -> None:
    page, harmless = Page(page_of(text)), Page(page_of("`word`" if "`" in text else "word"))
    assert page.tags == harmless.tags <= TAGS
    assert {name for name, _ in page.attributes} == {name for name, _ in harmless.attributes}
    assert len(page.comments) == len(harmless.comments)
    assert page.attributes["aria-label", text] == 1
    shown = text.strip("`")
    count = page.texts[text] + page.texts[shown] * (shown != text)
    assert count >= 16  # title, h1, link, h2, h3, two paragraphs, 5 in the table, 3 in the matrix, figcaption


def test_a_picture_of_a_split_is_linked_without_a_space_and_a_carriage_return_ends_no_row() -> None:
    """By CommonMark a destination without brackets ends at a space, and a line at a carriage return."""
    blocks = [Picture("agreement-nli, dev", "<svg />", "votes"), Table(["text"], [[Place("one\rtwo")]]), Text("a\rb")]
    markdown = to_markdown(Document("t", blocks), pictures="pictures")
    assert "](pictures/agreement-nli%2C%20dev.svg)" in markdown
    assert "| one two |" in markdown and markdown.endswith("a b\n") and "\r" not in markdown


def test_labels_of_a_picture_are_not_read_as_formulas() -> None:
    assert "a$\\frac$b" in drawn("a$\\frac$b")


def test_a_label_that_begins_with_an_underscore_is_in_the_legend() -> None:
    points = [Point(1, 0.5), Point(2, 0.7)]
    svg = line_panels([Panel("nli", [Series("_dev", points), Series("dev", points)])], name="dev")
    assert ">_dev<" in svg


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_run_with_hostile_rows_labels_splits_and_options_has_a_harmless_report(tmp_path: Path, text: str) -> None:
    run = tmp_path / text.replace("/", "")
    write_hostile_run(run, text)
    page = Page(write_report(run)[1].read_text(encoding="utf-8"))
    assert page.tags <= TAGS
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    assert all(value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    assert page.texts[text] >= 3  # the row's text, its label and its prediction


def write_hostile_run(run: Path, text: str) -> None:
    """The folder of a run on rows, labels and options that are `text`."""
    split = text.replace("/", "")
    labels = [text, f"{text} too"]
    (run / "predictions").mkdir(parents=True)
    source = run.parent / "rows.jsonl"
    source.write_text(json.dumps({"id": text, "label": labels[1], "premise": text}) + "\n", encoding="utf-8")
    prepared = run.parent / "prepared" / "nli" / split
    prepared.mkdir(parents=True)
    manifest = {"task": "nli", "split": split, "tokenizer": {}, "block": {}, "source": {"path": str(source)}}
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    places = {"tasks": "tasks.yml", "data": str(run.parent / "prepared"), "output": str(run), "encoder": text}
    config = RunConfig.model_validate({**places, "regularizer": {"name": "mine.py:Mine", "option": text}})
    (run / "run.yml").write_text(config.to_yaml(), encoding="utf-8")
    task = {"task_type": "classification", "labels": labels, "inputs": ["premise"], "splits": {"dev": [split]}}
    (run / "tasks.yml").write_text(yaml.safe_dump({"nli": task}))
    record = {"id": text, "prediction": labels[0], "label": labels[1], "scores": {labels[0]: 0.9, labels[1]: 0.1}}
    (run / "predictions" / f"nli.{split}.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    lines = [{"step": n, "evaluation": {"nli": {split: {"accuracy": n / 9}, "dev": {"accuracy": 0.5}}}} for n in (1, 2)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {"nli": {split: {"accuracy": 0.0, "rows": 1}}, "_run": {"seed": 1, "step": 2, "commit": text}}
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")


def test_an_installed_package_holds_the_page_s_template(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    build = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path / "build")]
    subprocess.run([*build, "--build-lib", str(tmp_path / "lib")], cwd=root, check=True, capture_output=True)
    code = "from mtdnn.report import document\nprint(document.__file__, document.to_html(document.Document('t')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "lib", env={}, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(tmp_path)) and "<h1>t</h1>" in done.stdout


def test_headings_that_differ_by_an_underscore_or_are_of_another_script_have_anchors_of_their_own() -> None:
    document = Document("A report")
    document.add(*(Heading(text) for text in ("a_b: rows", "a-b: rows", "задача", "任务")))
    page = Page(to_html(document))
    anchors = ["a_b-rows", "a-b-rows", "задача", "任务"]
    assert all(page.attributes["id", each] == 1 and page.attributes["href", f"#{each}"] == 1 for each in anchors)


def test_no_two_of_thirty_two_lines_look_the_same() -> None:
    """Eight colours, each whole and with three kinds of dashes."""
    series = [Series(str(number), [Point(0, number), Point(1, number)]) for number in range(32)]
    svg = line_panels([Panel("", series)], name="many")
    assert len(set(re.findall(r'style="fill: none; [^"]*stroke: #[^"]*"', svg))) == 32


def test_long_labels_leave_room_for_their_intervals(recwarn: pytest.WarningsRecorder) -> None:
    """Matplotlib warns where no room is left, and draws axes of no width."""
    label = "A method whose name says all of its options, of which there are many, and then its encoder"
    interval_panels([Panel("accuracy", [Series(label, [Point(0, 0.5, 0.4, 0.6)])])], name="long")
    assert not list(recwarn)
