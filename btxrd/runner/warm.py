"""Kernels that start warm: forked from a process that has imported what notebooks import.

Such a process is started in each worker (`python -m btxrd.runner.warm`), imports, and forks itself
when it is asked for a kernel; another one is started when the code has changed. It has a single
thread then, and ends with its worker; its kernels end with it. Without pidfd (everywhere but on
Linux), kernels start as jupyter starts them.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Dict

from btxrd.files import PROJECT_ROOT
from btxrd.session import THREAD_VARIABLES

__all__ = ["WarmKernelManager", "WarmProvisioner", "code_stamp"]

IMPORTED = (
    "ipykernel.kernelapp",
    "seaborn",
    "scipy.stats",
    "sklearn.metrics",
    "btxrd.extras.probe",
    "btxrd.data.augmentation",
    "btxrd.evaluation.gradcam",
    "btxrd.evaluation.comparison",
    "btxrd.evaluation.shortcuts",
    "btxrd.report.decision_figures",
    "btxrd.extras.pages.explorer",
    "btxrd.report.sentences",
)
"""What the notebooks import, and what that takes long to."""

LIMITS = ("RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_NOFILE")
"""A kernel has the limits of who asks for it, not of who forks it."""


class WarmKernelManager(AsyncKernelManager):
    """Starts warm kernels with an environment of their own."""

    environment = Dict(help="The kernel's environment variables.").tag(config=True)

    async def _async_pre_start_kernel(self, **settings: Any) -> tuple[list[str], dict[str, Any]]:
        settings["env"] = dict(self.environment)
        self.kernel_id = self.kernel_id or uuid.uuid4().hex
        self.provisioner = WarmProvisioner(
            kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
        )
        return await super()._async_pre_start_kernel(**settings)


class WarmProvisioner(LocalProvisioner):
    """Starts a kernel by a fork instead of a new interpreter."""

    async def launch_kernel(self, cmd: list[str], **settings: Any) -> dict[str, Any]:
        """Start the kernel of `cmd`, which is `python -m ipykernel_launcher …`."""
        if not hasattr(os, "pidfd_open"):
            return await super().launch_kernel(cmd, **settings)
        arguments = cmd[cmd.index("-f") :]
        self.process = _nursery.fork(arguments, settings["env"], settings.get("cwd") or ".")
        self.pid = self.pgid = self.process.pid
        return self.connection_info


class _ForkedKernel:
    """A kernel that is another process's child, with what jupyter asks of a `Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle, self.returncode = None, 1

    def poll(self) -> int | None:
        """Return None while it runs; its exit status is not known."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end."""
        return self._look(timeout)

    def _look(self, timeout: float | None) -> int | None:
        if self._handle is not None and select.select([self._handle], [], [], timeout)[0]:
            os.close(self._handle)
            self._handle, self.returncode = None, 1
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


def code_stamp() -> list[tuple[str, int]]:
    """Return every module of the package and when it was changed, in ns."""
    modules = sorted((PROJECT_ROOT / "btxrd").rglob("*.py"))
    return [(str(module), module.stat().st_mtime_ns) for module in modules]


class _Nursery:
    """This worker's process of warm imports, started when the first kernel is wanted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stamp: list[tuple[str, int]] = []
        # Processes of older code, which their kernels need.
        self._retired: list[subprocess.Popen[str]] = []

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> _ForkedKernel:
        import resource

        limits = {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS}
        order = {"arguments": list(arguments), "environment": dict(environment), "folder": folder}
        order["limits"] = limits
        with self._lock:
            process = self._current(environment)
            answer = ""
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{json.dumps(order)}\n")
                process.stdin.flush()
                answer = process.stdout.readline()
        if not answer:
            raise RuntimeError("the process that starts kernels died (killed, or out of memory?)")
        return _ForkedKernel(int(answer))

    def _current(self, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
        """Return a process that runs, and has imported the code as it is now."""
        stamp = code_stamp()
        if self._process is not None and self._process.poll() is None:
            if self._stamp == stamp:
                return self._process
            self._retired.append(self._process)
        self._stamp = stamp
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**environment, **dict.fromkeys(THREAD_VARIABLES, "1")},
            start_new_session=True,
        )
        return self._process


_nursery = _Nursery()


def _serve() -> None:
    """Import, then fork a kernel for each order on stdin, until it is closed."""
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()
    # Nobody waits for the kernels: the system shall forget them when they end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become_kernel(**json.loads(line))
        print(pid, flush=True)


def _become_kernel(
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    limits: dict[str, tuple[int, int]],
) -> None:
    import resource

    os.setsid()
    for name, ends in limits.items():
        resource.setrlimit(getattr(resource, name), ends)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    _use_threads(int(environment.get(THREAD_VARIABLES[0], 0)))
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(
        argv=[
            *arguments,
            # A kernel ends when its parent is no longer this process.
            f"--IPKernelApp.parent_handle={os.getppid()}",
            # pyplot was imported before there was a kernel: figures would not be shown.
            "--IPKernelApp.matplotlib=inline",
        ]
    )
    os._exit(0)


def _use_threads(count: int) -> None:
    """Do what libraries do with the environment when they are loaded; 0 leaves it to them."""
    import torch
    from threadpoolctl import threadpool_limits

    count = count or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    threadpool_limits(count)


if __name__ == "__main__":
    _serve()
