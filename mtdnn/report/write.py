"""The folder of a run or of a study → report.md and one self-contained report.html. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtdnn.config.arguments import keywords_checked
from mtdnn.errors import DataError, fault
from mtdnn.files import write_text
from mtdnn.registry import trusting
from mtdnn.report.agreement import read_annotators
from mtdnn.report.document import Document, Picture, standing_alone, to_html, to_markdown
from mtdnn.report.of_run import run_document
from mtdnn.report.of_study import study_document
from mtdnn.report.together import together_of_runs

PICTURES = "report_pictures"


@keywords_checked()
@trusting
def write_report(
    folder: str | Path,
    *,
    annotators: str | Path | None = None,
    worst: int = 10,
    alone: Sequence[str | Path] = (),
    together: Sequence[str | Path] = (),
    trust: bool = False,
) -> tuple[Path, Path]:
    """Write the report of a run or of a study into its folder.

    Args:
        folder: of the run or of the study.
        annotators: a file of labels of several annotators, `id<TAB>labels joined by commas`; adds a section by their
            agreement.
        worst: how many rows are shown with their texts among the worst errors.
        alone: folders of runs that each train one of the run's tasks: adds a table of each task alone, with others,
            and the difference, paired by seed. A study has this table if it has such runs.
        together: folders of runs like this one with other seeds, for that table.
        trust: allow dotted paths in the folder's files, which import code; without it, tasks of such a type are left
            out of confusions and errors.
    Returns:
        The paths of report.md and report.html.
    Raises:
        DataError: the folder contains neither a run nor a study with results, or cannot be written; or runs of `alone`
            and `together` cannot be compared, or make no pair.

    Example:
        >>> import mtdnn
        >>> markdown, page = mtdnn.write_report("runs/first", worst=3)
        >>> markdown.name, page.name
        ('report.md', 'report.html')
    """
    folder = Path(folder)
    votes = read_annotators(Path(annotators)) if annotators is not None else {}
    if (folder / "study.json").exists():
        if alone or together:
            fix = "Leave --alone and --together out: a study's own runs are compared."
            raise DataError(fault(str(folder), "", "a study, not a run", fix))
        document = study_document(folder, annotators=votes, worst=worst)
    elif (folder / "run.yml").exists():
        runs = together_of_runs([folder, *map(Path, together)], [*map(Path, alone)]) if alone or together else []
        document = run_document(folder, annotators=votes, worst=worst, together=runs)
    else:
        fix = "Give the folder of a run or of a study."
        raise DataError(fault(str(folder), "", "contains neither run.yml nor study.json", fix))
    return write_document(document, folder)


def write_document(document: Document, folder: Path) -> tuple[Path, Path]:
    """Write a document as report.md with its pictures next to it, and as report.html.

    Raises:
        DataError: the folder cannot be written to.
    """
    try:
        return _written(document, folder)
    except OSError as error:
        found = f"the report cannot be written: {error.strerror or error}"
        fix = "Make the folder writable, free disk space, or report a copy of it."
        raise DataError(fault(str(error.filename or folder), "", found, fix)) from error


def _written(document: Document, folder: Path) -> tuple[Path, Path]:
    for block in document.blocks:
        if isinstance(block, Picture):
            path = folder / PICTURES / f"{block.name}.svg"
            path.parent.mkdir(exist_ok=True)
            write_text(path, standing_alone(block.svg) + "\n")
    markdown, page = folder / "report.md", folder / "report.html"
    write_text(markdown, to_markdown(document, pictures=PICTURES))
    write_text(page, to_html(document))
    return markdown, page
