"""Run one notebook with papermill, and keep its page."""

import logging
import os
import tempfile
import traceback
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import Dict
from traitlets.config import Config

from btxrd.files import PROJECT_ROOT, atomic_path
from btxrd.report.page import write_html
from btxrd.stages import Stage
from btxrd.study.warm import WarmProvisioner

__all__ = ["NOTEBOOKS", "NotebookError", "execute_notebook", "notebook_file", "read_notebook"]

NOTEBOOKS = PROJECT_ROOT / "notebooks"


class NotebookError(RuntimeError):
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
    logging.getLogger("papermill").setLevel(logging.ERROR)
    source, output, failure = notebook_file(stage), Path(folder, f"{stage.name}.ipynb"), None
    read_notebook(source)
    killed = _killed_for_memory()
    with atomic_path(output) as temporary, tempfile.TemporaryDirectory(prefix="btxrd-") as sockets:
        try:
            papermill.execute_notebook(
                source,
                temporary,
                parameters,
                progress_bar=False,
                cwd=NOTEBOOKS,
                kernel_name="python3",
                config=_kernel_config(sockets, environment or os.environ),
            )
        except PapermillExecutionError as error:
            lines = str(error.evalue).strip().splitlines()[:6]
            message = f"{error.ename}: {' '.join(line.strip() for line in lines)}"
            failure = NotebookError(message, "\n".join(error.traceback), error.ename)
        except DeadKernelError as error:
            message = f"the kernel of {stage.name} died (killed, or out of memory?)"
            if _killed_for_memory() > killed:
                message = (
                    f"the kernel of {stage.name} was killed because this machine ran out of "
                    "memory; try fewer --jobs or a smaller training.batch_size"
                )
            failure = NotebookError(message, repr(error))
    try:
        write_html(output, output.with_name(stage.page))
    except Exception:
        # The page of a notebook that broke off may break as well; why it broke off counts.
        if failure is None:
            raise
    if failure is not None:
        raise failure


def read_notebook(path: str | Path) -> nbformat.NotebookNode:
    """Read a notebook.

    Raises:
        NotebookError: it is missing or damaged; names it.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise NotebookError(f"{path} is missing; `git checkout` brings it back", "") from None
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        message = f"{path} is damaged ({reason}); `git checkout` brings it back"
        raise NotebookError(message, traceback.format_exc()) from error
    return notebook


def _killed_for_memory() -> int:
    """Return how many processes Linux has killed for lack of memory; 0 where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


class KernelWithEnvironment(AsyncKernelManager):
    """Starts warm kernels with an environment of their own."""

    environment = Dict(help="The kernel's environment variables.").tag(config=True)

    async def _async_pre_start_kernel(self, **settings: Any) -> tuple[list[str], dict[str, Any]]:
        settings["env"] = dict(self.environment)
        self.kernel_id = self.kernel_id or uuid.uuid4().hex
        self.provisioner = WarmProvisioner(
            kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
        )
        return await super()._async_pre_start_kernel(**settings)


def _kernel_config(folder: str, environment: Mapping[str, str]) -> Config:
    """Let the kernel talk through sockets in a folder of its own.

    Kernels that start together cannot take each other's TCP port then, and nobody else on the
    machine can talk to them.
    """
    sockets = {"transport": "ipc", "ip": f"{folder}/kernel"} if os.name == "posix" else {}
    return Config(
        {
            "NotebookClient": {
                "kernel_manager_class": KernelWithEnvironment,
                # Its own log would break into the progress on the terminal.
                "extra_arguments": ["--IPKernelApp.log_level=CRITICAL"],
            },
            "KernelWithEnvironment": {"environment": dict(environment), **sockets},
        }
    )
