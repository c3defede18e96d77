"""Kernels that start warm: forked from a process that has imported what notebooks import.

A process that runs notebooks starts such a process (`python -m btxrd.runner.warm`), and another one
when the code has changed. It has a single thread, forks itself for each kernel, and ends with the
process that started it; its kernels end with it. Elsewhere than on Linux, kernels start as jupyter
starts them.
"""

import ast
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

import psutil
from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Dict

from btxrd.files import PROJECT_ROOT
from btxrd.session import THREAD_VARIABLES

__all__ = ["WarmKernelManager", "code_stamp"]

IMPORTS = (ast.Import, ast.ImportFrom)
IMPORTED_LATER = ("ipykernel.kernelapp", "btxrd.data.augmentation")
"""The modules that a kernel and a training import besides those that notebooks name."""


class WarmKernelManager(AsyncKernelManager):
    """A manager of a warm kernel, which has an environment of its own."""

    environment = Dict(help="The kernel's environment variables.").tag(config=True)

    async def start_kernel(self, **settings: Any) -> None:
        """Start the kernel."""
        self.provisioner = WarmProvisioner(kernel_spec=self.kernel_spec, parent=self)
        await super().start_kernel(env=dict(self.environment), **settings)


class WarmProvisioner(LocalProvisioner):
    """A provisioner that forks a kernel instead of starting an interpreter."""

    async def launch_kernel(self, cmd: list[str], **settings: Any) -> dict[str, Any]:
        """Start the kernel of `cmd`, which is `python -m ipykernel_launcher -f …`."""
        if sys.platform != "linux":
            return await super().launch_kernel(cmd, **settings)
        arguments = cmd[cmd.index("-f") :]
        self.process = _Kernel(_fork(arguments, settings["env"], settings.get("cwd") or "."))
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class _Kernel(psutil.Process):
    """A kernel that is another process's child, with what jupyter asks of a `Popen`."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """Return None while it runs, then 1: its exit status is its parent's to know."""
        return None if self.is_running() else 1

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        with suppress(psutil.NoSuchProcess):
            super().send_signal(number)


def code_stamp() -> tuple[tuple[str, int], ...]:
    """Return every module of the package and when it was changed, in ns."""
    modules = sorted((PROJECT_ROOT / "btxrd").rglob("*.py"))
    return tuple((str(module), module.stat().st_mtime_ns) for module in modules)


_lock = threading.Lock()
_servers: dict[tuple[tuple[str, int], ...], subprocess.Popen[str]] = {}
"""The code of a moment → the process that has imported it: older kernels need theirs to go on."""


def _fork(arguments: list[str], environment: dict[str, str], folder: str) -> int:
    """Start a kernel in a folder; returns the id of its process."""
    order = {"arguments": arguments, "environment": environment, "folder": str(folder)}
    stamp = code_stamp()
    with _lock:
        server = _servers.get(stamp)
        if server is None or server.poll() is not None:
            server = _servers[stamp] = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**environment, **dict.fromkeys(THREAD_VARIABLES, "1")},
                start_new_session=True,
            )
        answer = ""
        with suppress(BrokenPipeError):
            print(json.dumps(order), file=server.stdin, flush=True)
            answer = server.stdout.readline()
    if not answer:
        raise RuntimeError("the process that starts kernels died (killed, or out of memory?)")
    return int(answer)


def _import_what_notebooks_import() -> None:
    """Run the import statements of all notebooks, as far as they can be read."""
    for notebook in sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb")):
        with suppress(ImportError, KeyError, SyntaxError, ValueError):
            for cell in json.loads(notebook.read_text())["cells"]:
                tree = ast.parse("".join(cell["source"]) if cell["cell_type"] == "code" else "")
                tree.body = [node for node in tree.body if isinstance(node, IMPORTS)]
                exec(compile(tree, notebook.name, "exec"), {})


def _serve() -> None:
    """Import, then fork a kernel for each order on stdin, until it is closed."""
    _import_what_notebooks_import()
    for module in IMPORTED_LATER:
        importlib.import_module(module)
    gc.freeze()
    # Nobody waits for the kernels: the system shall forget them when they end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become_kernel(**json.loads(line))
        print(pid, flush=True)


def _become_kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be a kernel to its end; what libraries do with the environment when loaded is done again."""
    import torch
    from ipykernel.kernelapp import launch_new_instance
    from threadpoolctl import threadpool_limits

    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    threads = int(environment.get(THREAD_VARIABLES[0], 0)) or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    # A kernel ends when its parent is no longer this process; and pyplot was imported before there
    # was a kernel: its figures would not be shown.
    options = {"parent_handle": os.getppid(), "matplotlib": "inline"}
    given = [f"--IPKernelApp.{name}={value}" for name, value in options.items()]
    launch_new_instance(argv=[*arguments, *given])
    os._exit(0)


if __name__ == "__main__":
    _serve()
