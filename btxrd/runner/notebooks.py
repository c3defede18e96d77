"""Run one notebook with papermill, and keep its page."""

import json
import logging
import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from btxrd.files import PROJECT_ROOT, atomic_path
from btxrd.runner import RunnerError
from btxrd.session import NOTEBOOK_VARIABLE
from btxrd.stages import Stage

__all__ = ["NOTEBOOKS", "NotebookError", "execute_notebook", "notebook_file", "read_notebook"]

NOTEBOOKS = PROJECT_ROOT / "notebooks"


class NotebookError(RunnerError):
    """A notebook stopped before its end.

    Attributes:
        details: the traceback; the message itself is one line.
        kind: the name of the exception that a cell raised; None where it was not a cell.
    """

    def __init__(self, message: str, details: str, kind: str | None = None) -> None:
        super().__init__(message)
        self.details, self.kind = details, kind


def notebook_file(stage: Stage) -> Path:
    """Return where the notebook of a stage stands, as it is kept: not run."""
    return NOTEBOOKS / f"{stage.name}.ipynb"


def execute_notebook(
    stage: Stage,
    folder: str | Path,
    parameters: dict[str, Any],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run the notebook of a stage in a kernel of its own.

    The executed copy and its page are kept also when a cell fails, so that the traceback can be
    read where it happened.

    Args:
        stage: whose notebook.
        folder: where the copy and the page go.
        parameters: what papermill injects.
        environment: the kernel's variables; this process's own by default.

    Raises:
        NotebookError: a cell raised, the kernel died, or the notebook is damaged.
        OSError: there is no room for the copy.
    """
    # They take two seconds to import, and a study with nothing to do needs none of them.
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from btxrd.report.page import write_html

    logging.getLogger("papermill").setLevel(logging.ERROR)
    source, output, failure = notebook_file(stage), Path(folder, f"{stage.name}.ipynb"), None
    read_notebook(source)
    killed = _killed_for_memory()
    place = {NOTEBOOK_VARIABLE: str(output.parent.resolve())}
    with atomic_path(output) as temporary, _kernel_folder() as own:
        try:
            papermill.execute_notebook(
                source,
                temporary,
                parameters,
                progress_bar=False,
                cwd=NOTEBOOKS,
                kernel_name="python3",
                config=_config(own, {**(environment or os.environ), **place}),
            )
        except PapermillExecutionError as error:
            lines = str(error.evalue).strip().splitlines()[:6]
            message = f"{error.ename}: {' '.join(line.strip() for line in lines)}"
            failure = NotebookError(message, "\n".join(error.traceback), error.ename)
        except DeadKernelError as error:
            how = "died (killed, or out of memory?)"
            if _killed_for_memory() > killed:
                how = "was killed because this machine ran out of memory; try fewer --jobs or a "
                how += "smaller training.batch_size"
            failure = NotebookError(f"the kernel of {stage.name} {how}", repr(error))
    try:
        write_html(output, output.with_name(stage.page))
    except Exception:
        # The page of a notebook that broke off may break as well; why it broke off counts.
        if failure is None:
            raise
    if failure is not None:
        raise failure


def read_notebook(path: str | Path) -> list[dict[str, Any]]:
    """Return the cells of a notebook: `cell_type`, `metadata` and `source` (one text).

    Raises:
        NotebookError: it is missing or damaged; names it.
    """
    try:
        cells = json.loads(Path(path).read_text())["cells"]
        return [
            {key: cell[key] for key in ("cell_type", "metadata")}
            | {"source": "".join(cell["source"])}
            for cell in cells
        ]
    except FileNotFoundError:
        raise NotebookError(f"{path} is missing; `git checkout` brings it back", "") from None
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        message = f"{path} is damaged ({reason}); `git checkout` brings it back"
        raise NotebookError(message, traceback.format_exc()) from error


def _killed_for_memory() -> int:
    """Return how many processes Linux has killed for lack of memory; 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


@contextmanager
def _kernel_folder() -> Iterator[str]:
    """Make a kernel's folder, named after this process; remove those of processes that died."""
    for folder in Path(tempfile.gettempdir()).glob("btxrd-kernel-*"):
        if not psutil.pid_exists(int(folder.name.split("-")[2])):
            shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"btxrd-kernel-{os.getpid()}-") as own:
        yield own


def _config(folder: str, environment: Mapping[str, str]) -> Any:
    """Return the settings of a warm kernel that has its key and its sockets in its own folder."""
    from traitlets.config import Config

    from btxrd.runner.warm import WarmKernelManager

    kernel = {"connection_file": f"{folder}/kernel.json", "environment": dict(environment)}
    if os.name == "posix":
        # So kernels do not take each other's TCP port, and nobody else can talk to them.
        kernel |= {"transport": "ipc", "ip": f"{folder}/kernel"}
    # A log of its own would break into the progress on the terminal.
    client = {"extra_arguments": ["--IPKernelApp.log_level=CRITICAL"]}
    client["kernel_manager_class"] = WarmKernelManager
    return Config(NotebookClient=client, WarmKernelManager=kernel)
