"""The pages of a study: what links them, made again, and packed to be handed on."""

import json
import re
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from btxrd import RESEARCH_ONLY
from btxrd.evaluation.runs import collect_runs
from btxrd.files import atomic_path, is_phantom, project_path, read_json
from btxrd.provenance import CITATION
from btxrd.stages import RUNS_SCRIPT, STAGES, STUDY_FILE

__all__ = ["data_licence", "pack_pages", "rebuild_pages", "write_run_list"]

PACKED = (".html", ".js", ".css", ".svg", ".png", ".jpg", ".jpeg", ".webp", ".avif", ".csv", ".txt")
"""Endings of what a reader of the pages needs; no checkpoints, notebooks or names of machines."""
LARGEST_TABLE = 5_000_000
"""Bytes; larger tables are not packed."""
HIDDEN = re.compile(r"^\.|\.old-")
"""The names of what is being written, and of runs' folders that were moved aside."""
LICENCE_FILE = "LICENCE-OF-THE-DATA.txt"


def write_run_list(study_dir: str | Path) -> None:
    """Write `runs.js`, from which each page of a study knows the others, atomically."""
    study_dir = Path(study_dir)
    lines = []
    for run in collect_runs(study_dir):
        found = sorted((study_dir / run.path).glob("*.html"))
        others = {file.stem: file.name for file in found if file.name not in run.pages.values()}
        if pages := run.pages | others:
            about = {"experiment": run.experiment, "name": run.where}
            lines.append(json.dumps(about | {"folder": run.path.as_posix(), "pages": pages}))
    with atomic_path(study_dir / RUNS_SCRIPT) as temporary:
        temporary.write_text("window.btxrdRuns = [\n" + ",\n".join(lines) + "\n];\n")


def rebuild_pages(study_dir: str | Path) -> int:
    """Make the pages of a study again from its executed notebooks; returns how many.

    Raises:
        FileNotFoundError: there is no study in the folder.
    """
    # It takes two seconds to import, and most commands need none of it.
    from btxrd.report.page import write_html

    files = _files(study_dir)
    notebooks = [file for file in files if file.suffix == ".ipynb" and file.stem in STAGES]
    for notebook in notebooks:
        write_html(notebook, notebook.with_name(STAGES[notebook.stem].page))
    write_run_list(study_dir)
    return len(notebooks)


def pack_pages(study_dir: str | Path) -> Path:
    """Pack the pages of a study, their images and small tables into `<study>.zip` beside it.

    Its folder opens anywhere; a text says what may be done with it.

    Raises:
        FileNotFoundError: there is no study in the folder.
    """
    study_dir = Path(study_dir).resolve()
    packed = study_dir.with_name(f"{study_dir.name}.zip")
    with atomic_path(packed) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED) as archive:
        archive.writestr(f"{study_dir.name}/{LICENCE_FILE}", f"{data_licence(study_dir)}\n")
        for file in _files(study_dir):
            small = file.suffix != ".csv" or file.stat().st_size <= LARGEST_TABLE
            if file.suffix in PACKED and small:
                archive.write(file, file.relative_to(study_dir.parent))
    return packed


def data_licence(study_dir: str | Path) -> str:
    """Say what may be done with the pages of a study, which may show images of its data."""
    parameters = read_json(Path(study_dir) / STUDY_FILE).get("parameters", {})
    if is_phantom(project_path(parameters.get("dataset_root", ""))):
        return f"The images are phantoms, drawn by btxrd: they may be handed on. {RESEARCH_ONLY}"
    return (
        f"The pages show images of the data and pictures derived from them. {CITATION}: the paper "
        "states CC BY-NC-ND 4.0, figshare's page CC BY 4.0. Do not hand on images of the data, nor "
        f"pictures derived from them. {RESEARCH_ONLY}"
    )


def _files(study_dir: str | Path) -> list[Path]:
    """Return all files of a study, sorted, without what was moved aside or is being written."""
    study_dir = Path(study_dir).resolve()
    if not (study_dir / STUDY_FILE).is_file():
        raise FileNotFoundError(f"no study in {study_dir}: it has no {STUDY_FILE}")
    files = {file: file.relative_to(study_dir).parts for file in sorted(study_dir.rglob("*"))}
    hidden = {f for f, parts in files.items() if any(HIDDEN.search(part) for part in parts)}
    return [file for file in files if file.is_file() and file not in hidden]
