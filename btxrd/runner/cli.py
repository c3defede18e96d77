"""The `btxrd` command."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from btxrd import RESEARCH_ONLY, __version__
from btxrd.files import project_path, read_yaml, write_csv, write_json
from btxrd.runner import RunnerError

__all__ = ["main"]


class _Commands(click.Group):
    """Commands that tell an error which a user can mend in one line, without its traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise
        except (ImportError, OSError, RunnerError, ValueError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, epilog=RESEARCH_ONLY)
@click.version_option(__version__)
def main() -> None:
    """Reproducible classification of bone-tumour radiographs (BTXRD)."""


def _listed(of_a_part: Callable[[str], Any], example: str) -> Callable[..., list[Any]]:
    """Return an option's callback: a list, separated by commas, of what a function makes of it."""

    def callback(_context: click.Context, _option: click.Parameter, value: str | None) -> list[Any]:
        try:
            return [of_a_part(part.strip()) for part in (value or "").split(",") if part.strip()]
        except ValueError:
            raise click.BadParameter(f"{value!r} is not {example}") from None

    return callback


def _resource(part: str) -> tuple[str, float]:
    name, _, amount = part.partition("=")
    return name.strip(), float(amount)


_names, _numbers = _listed(str, "names"), _listed(int, "whole numbers, such as 42,43")
_resources = _listed(_resource, "NAME=NUMBER, such as GPU=1")
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Runs at a time; the cores are shared out among them.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads of each run; the same number gives the same digits everywhere.",
)
folder_argument = click.argument("directory", type=click.Path(path_type=Path))
study_argument = click.argument(
    "directory", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
CHECKPOINT = click.Path(exists=True, dir_okay=False, path_type=Path)

HOW_IT_RUNS = """
A run takes one slot. --jobs N makes N of them on this machine; with --scheduler they are those of a
Dask cluster, whose machines see the clone, its data and its reports under the same path. The cores
are shared out among the runs; another number of threads adds up in another order, so give --threads
where digits must not depend on --jobs.

Ctrl-C once stops after the running epochs, twice at once. After that, a kill or a power cut the
same command goes on: finished runs are skipped, interrupted ones continue from their last epoch.
What changed (parameters, data, split, code or packages of a stage) is run again, and no more than
that. For GPUs, SLURM and ssh see btxrd/runner/README.md.
"""


@main.command(epilog=HOW_IT_RUNS)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@jobs_option
@threads_option
@click.option("--only", callback=_names, help="Experiments, separated by commas.")
@click.option("--splits", callback=_names, help="Splits, separated by commas.")
@click.option("--seeds", callback=_numbers, help="Seeds, separated by commas.")
@click.option("--data", type=click.Path(path_type=Path), help="Instead of FILE's dataset_root.")
@click.option("--scheduler", help="Of a Dask cluster that shares this folder: tcp://host:port.")
@click.option("--resources", callback=_resources, help="What a run takes of its worker's: GPU=1.")
def study(
    file: Path,
    only: list[str],
    splits: list[str],
    seeds: list[int],
    data: Path | None,
    resources: list[tuple[str, float]],
    **how: Any,
) -> None:
    """Run the study that FILE describes and build its report.

    Runs that are finished and unchanged are not run again; interrupted ones go on.
    """
    if resources and how["scheduler"] is None:
        raise click.UsageError("--resources are those of a cluster's workers: give --scheduler")
    _run(file, data, (only, splits, seeds), resources=dict(resources), **how)


@main.command()
@jobs_option
@threads_option
def demo(jobs: int | None, threads: int | None) -> None:
    """Run the whole study in minutes, on phantom images made on the spot."""
    from dask.system import CPU_COUNT

    _run(project_path("params/demo.yaml"), jobs=jobs or CPU_COUNT, threads=threads)


@main.command()
def parameters() -> None:
    """List every parameter of experiments, studies and notebooks, with its meaning."""
    from btxrd import params

    sections = {
        "An experiment's file, and notebook 03": params.RunParams,
        "  model": params.ModelParams,
        "  data": params.DataParams,
        "  training": params.TrainingParams,
        "A study's file": params.StudyParams,
        "  phantom": params.PhantomParams,
        "Notebook 01": params.EdaParams,
        "Notebook 02": params.SplitsParams,
        "Notebook 04": params.EvaluateParams,
        "Notebook 05": params.GradcamParams,
        "Notebook 06": params.CompareParams,
    }
    formatter = click.HelpFormatter(width=min(100, shutil.get_terminal_size().columns))
    for title, section in sections.items():
        with formatter.section(title):
            formatter.write_dl(params.parameter_rows(section))
    click.echo(formatter.getvalue(), nl=False)


@main.command()
@study_argument
def status(directory: Path) -> None:
    """Say how far the study in DIRECTORY is (reports/<study>), while it runs or after it.

    Exit status: 0 where no run has failed so far, 1 where one has.
    """
    from btxrd.runner.progress import study_status

    lines, failed = study_status(directory)
    click.echo("\n".join(lines))
    raise SystemExit(1 if failed else 0)


@main.command()
@study_argument
def verify(directory: Path) -> None:
    """Recompute the numbers of the study in DIRECTORY from its predictions, and check its files.

    DIRECTORY may also be an evaluation in reports/external: of that the numbers are computed.

    Exit status: 0 where everything matches, 1 where something does not.
    """
    from btxrd.runner.verify import verify as find_problems

    problems = find_problems(directory)
    click.echo("\n".join(problems) or "every number follows from the predictions")
    raise SystemExit(1 if problems else 0)


@main.command()
@study_argument
@click.option("--zip", "packed", is_flag=True, help="Also pack them into reports/<study>.zip.")
def report(directory: Path, packed: bool) -> None:
    """Make the pages of the study in DIRECTORY again, from its executed notebooks.

    With --zip they, their images and small tables are also packed into one file that opens
    anywhere, with a text on the data's licence.
    """
    from btxrd.runner.pages import data_licence, pack_pages, rebuild_pages

    click.echo(f"{rebuild_pages(directory)} pages in {directory}")
    if packed:
        click.echo(f"packed: {pack_pages(directory)}")
        click.echo(data_licence(directory), err=True)


@main.command()
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option("--url", help="Another address of the same archive.")
def fetch(directory: Path | None, url: str | None) -> None:
    """Fetch BTXRD (about 801 MB) into DIRECTORY, by default data/BTXRD of the clone.

    Verified, resumed where it broke off, and not fetched again when it is complete.
    """
    from btxrd.data.release_files import release_files, release_lines
    from btxrd.runner.fetch import ARCHIVE_URL, fetch

    root = fetch(directory or project_path("data/BTXRD"), url or ARCHIVE_URL)
    click.echo(f"BTXRD is complete in {root}")
    click.echo("\n".join(release_lines(release_files(root, progress=True))))


@main.command()
@folder_argument
@click.option(
    "--files",
    "table",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A CSV to write: each image, and whether it is as released.",
)
def check(directory: Path, table: Path | None) -> None:
    """Say what is wrong with the data set in DIRECTORY, row by row.

    Also which of its images are the release's files, byte for byte; of drawn ones none is.

    Exit status: 0 clean, 1 warnings, 2 errors.
    """
    from btxrd.data import release_files as release
    from btxrd.data.audit import audit, exit_status

    findings = audit(directory, progress=True)
    files = release.release_files(directory, progress=True)
    if table is not None:
        write_csv(table, files)
    altered, most = release.release_findings(files), release.MOST_NAMED
    for finding in (*findings.itertuples(), *altered.head(most).itertuples()):
        click.echo(f"{finding.severity}: {finding.subject}: {finding.what} {finding.remedy}")
    if len(altered) > most:
        click.echo(f"and {len(altered) - most} more such images")
    click.echo("\n".join(release.release_lines(files)))
    errors = int((findings["severity"] == "error").sum())
    click.echo(f"{errors} errors, {len(findings) + len(altered) - errors} warnings")
    raise SystemExit(max(exit_status(findings), exit_status(altered)))


@main.command()
@folder_argument
@click.option("--images", default=360, show_default=True, help="How many images.")
@click.option("--seed", default=42, show_default=True, help="Of every random choice.")
@click.option("--scale", default=0.25, show_default=True, help="Image size by the release's.")
def phantom(directory: Path, images: int, seed: int, scale: float) -> None:
    """Make a phantom BTXRD in DIRECTORY: drawn images in the release's layout."""
    from btxrd.extras.phantom import make_phantom

    make_phantom(directory, n_images=images, seed=seed, scale=scale, progress=True)
    click.echo(f"{images} phantom images in {directory}")


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--checkpoint", required=True, type=CHECKPOINT, help="The model.pt of a run.")
@click.option(
    "--gradcam",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for a heat map over each image.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of stdout."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "json"]),
    default="csv",
    show_default=True,
    help="Of the table.",
)
def predict(
    images: tuple[Path, ...], checkpoint: Path, gradcam: Path | None, output: Path | None, form: str
) -> None:
    """Classify IMAGES, files or folders, with a trained network.

    An image that cannot be read gets a row with its error. Where a heat map cannot be had, a line
    says why; the classification stands. Exit status: 0 all classified, 1 not all, 2 wrong usage.
    """
    from btxrd.runner.predict import predict

    click.echo(RESEARCH_ONLY, err=True)
    table = predict(images, checkpoint, gradcam, tell=partial(click.echo, err=True))
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    document = {"note": RESEARCH_ONLY, "checkpoint": str(checkpoint), "images": rows}
    if output is not None:
        write_csv(output, table) if form == "csv" else write_json(output, document)
    elif form == "csv":
        click.echo(table.to_csv(index=False), nl=False)
    else:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    raise SystemExit(int(table["error"].notna().any()))


@main.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--checkpoint", "first", required=True, type=CHECKPOINT, help="The model.pt of a run."
)
@click.argument("others", metavar="[MODEL.PT]...", nargs=-1, type=CHECKPOINT)
@click.option("--name", help="Of the folder in reports/external; that of DATA by default.")
def evaluate(data: Path, first: Path, others: tuple[Path, ...], name: str | None) -> None:
    """Evaluate a trained network on your own labelled radiographs, DATA.

    DATA is a folder in the release's layout, or a CSV or Excel table with `path,label` and, where
    you have them, `group` (the patient), `center`, `age`, `gender`. Checkpoints that follow the
    first one, as a shell's `*` gives them, make an ensemble: their mean probability.
    """
    from btxrd.runner.external import evaluate_checkpoints

    click.echo(RESEARCH_ONLY, err=True)
    page = evaluate_checkpoints(data, [first, *others], name, tell=partial(click.echo, err=True))
    click.echo(f"report: {page}")


def _run(
    file: Path, data: Path | None = None, selected: Sequence[list[Any]] = (), **how: Any
) -> None:
    from btxrd.params import StudyParams
    from btxrd.runner.study import run_study, select

    given = {} if data is None else {"dataset_root": str(data.resolve())}
    study = select(StudyParams.parse(read_yaml(file) | given, file), *selected)
    try:
        result = run_study(study, **how)
    except KeyboardInterrupt:
        click.echo("\nstopped; the same command goes on from here", err=True)
        raise SystemExit(130) from None
    click.echo(f"report: {result.report}")
    for name, record in result.failed.items():
        click.echo(f"FAILED {name}: {record.get('error')}", err=True)
        click.echo(f"  see {result.run_dirs[name] / 'error.txt'}", err=True)
    if result.failed:
        raise SystemExit(1)
