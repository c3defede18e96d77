"""The workers that run notebooks: processes of this machine, or those of a Dask cluster."""

import logging
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import dask
import psutil
from dask.system import CPU_COUNT
from distributed import Client, Future, LocalCluster, WorkerPlugin

from btxrd.provenance import package_versions
from btxrd.runner import RunnerError

__all__ = ["Cluster", "ClusterError"]

GONE = (
    "the Dask scheduler is gone; the same command goes on, from the last epoch of what was running"
)
QUIET = {
    "distributed.admin.tick.interval": "2s",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.worker.profile.enabled": False,
}
"""Settings of workers that are started here: they take 12 % of a core less than by default, in
which they watch themselves for a dashboard that is not shown."""


class ClusterError(RunnerError):
    """The cluster cannot be used; the message says which worker or address, and why."""


class Cluster:
    """Worker processes; one run at a time for each of their slots.

    A slot is a thread of a Dask worker; with `resources`, one share of what a run needs.

    Args:
        jobs: runs at a time. Without a scheduler, as many worker processes are started here, one
            by default; with a scheduler, all its slots are used by default.
        scheduler: address of a Dask scheduler, such as tcp://host:8786.
        resources: what each run takes of its worker's resources, such as {"GPU": 1}.
    """

    def __init__(
        self,
        jobs: int | None = None,
        scheduler: str | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        self.jobs, self.scheduler, self.resources = jobs, scheduler, dict(resources or {})
        self.local: LocalCluster | None = None

    @cached_property
    def client(self) -> Client:
        """The connection to the workers, made when first wanted; ClusterError without an answer."""
        # What goes wrong with a worker is told by its run.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if self.scheduler is not None:
            try:
                return Client(self.scheduler, timeout=10)
            except (OSError, ValueError) as error:
                message = f"no Dask scheduler answers at {self.scheduler}: {error}"
                raise ClusterError(message) from error
        dask.config.set(QUIET)
        self.local = LocalCluster(
            n_workers=self.jobs or 1,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        client = Client(self.local)
        client.register_plugin(_IgnoreInterrupts())
        return client

    def __enter__(self) -> Self:
        """Return the cluster."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let go of the workers; those that were started here end, and their kernels with them."""
        if "client" not in self.__dict__:
            return
        busy = any(future.status == "pending" for future in self.client.futures.values())
        self.client.close()
        if self.local is None:
            return
        # Asked to, a busy worker would first wait seconds for what it runs.
        for nanny in self.local.workers.values() if busy else ():
            nanny.auto_restart = False
            with suppress(psutil.NoSuchProcess):
                psutil.Process(nanny.pid).kill()
        self.local.close()

    def slots(self) -> int:
        """Return how many runs there can be at a time with the workers of this moment."""
        slots = sum(map(self._slots, self._workers().values()))
        return slots if self.jobs is None else min(slots, self.jobs)

    def _workers(self) -> dict[str, dict[str, Any]]:
        try:
            return self.client.scheduler_info()["workers"]
        except (OSError, KeyError) as error:
            raise ClusterError(GONE) from error

    def _slots(self, worker: Mapping[str, Any]) -> int:
        shares = [worker["resources"].get(name, 0) // n for name, n in self.resources.items()]
        return int(min([worker["nthreads"], *shares]))

    def meet(self, file: Path) -> int:
        """Make sure that every worker sees the same files and has the same packages.

        Returns:
            The cores of the worker's machine with the fewest, shared out among its slots.

        Raises:
            ClusterError: names the first worker that does not.
        """
        known, expected = self._workers(), package_versions()
        cores, slots = {}, defaultdict(int)
        for address, (sees, packages, n) in self.client.run(_facts, str(file)).items():
            if not sees:
                raise ClusterError(
                    f"worker {address} does not see {file}: the clone, its data and its reports "
                    "must stand in a folder that all machines share, under the same path"
                )
            for name, version in expected.items():
                if packages[name] != version:
                    raise ClusterError(
                        f"worker {address} has {name} {packages[name]}, not {version}: install "
                        "the same environment on all machines"
                    )
            # One that joined in between is not known yet.
            if address in known:
                host = known[address]["host"]
                cores[host] = min(n, cores.get(host, n))
                slots[host] += self._slots(known[address])
        return max(1, min((cores[host] // max(1, slots[host]) for host in cores), default=1))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Hand something to a worker that has a slot for it."""
        taken = self.resources or None
        return self.client.submit(function, *arguments, pure=False, resources=taken)

    def result(self, future: Future) -> Any:
        """Return or raise what came of it once it is done; ClusterError without a scheduler."""
        try:
            return future.result()
        except CancelledError as error:
            raise ClusterError(GONE) from error


def _facts(file: str) -> tuple[bool, dict[str, str], int]:
    return Path(file).is_file(), package_versions(), CPU_COUNT


class _IgnoreInterrupts(WorkerPlugin):
    """A plugin for which Ctrl-C, which reaches all processes of a terminal, is the study's."""

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
