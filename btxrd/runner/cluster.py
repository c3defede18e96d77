"""Where notebooks run: worker processes of this machine, or those of a Dask cluster."""

import logging
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import dask
from distributed import Client, Future, LocalCluster, WorkerPlugin

from btxrd.provenance import package_versions

__all__ = ["Cluster", "ClusterError", "available_cores"]

GONE = (
    "the Dask scheduler is gone; the same command goes on, from the last epoch of what was running"
)


QUIET = {
    "distributed.admin.tick.interval": "2s",
    "distributed.admin.tick.limit": "1h",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.client.scheduler-info-interval": "10s",
    "distributed.worker.profile.enabled": False,
}
"""Settings of workers that are started here: they watch themselves for a dashboard nobody sees."""


class ClusterError(RuntimeError):
    """The cluster cannot be used; the message says which worker or address, and why."""


def available_cores() -> int:
    """Return how many cores this process may use: what SLURM or a container gave it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Cluster:
    """Worker processes; one notebook at a time for each of their slots.

    A slot is a thread of a Dask worker; with `resources`, one share of what a run needs.

    Args:
        jobs: runs at a time. Without a scheduler, as many worker processes are started here; with
            one, all its slots are used by default.
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
        """The connection to the workers; they are started here when it is first wanted.

        Raises:
            ClusterError: nobody answers at the scheduler's address.
        """
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
        if busy:
            # Asked to, a worker would first wait seconds for what it runs.
            for nanny in self.local.workers.values():
                nanny.auto_restart = False
                if nanny.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(nanny.pid, signal.SIGKILL)
        self.local.close()

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return what the scheduler knows of its workers, by address.

        Raises:
            ClusterError: the scheduler no longer answers.
        """
        try:
            return self.client.scheduler_info()["workers"]
        except (OSError, KeyError) as error:
            raise ClusterError(GONE) from error

    def slots(self) -> int:
        """Return how many runs there can be at a time with the workers of this moment."""
        slots = sum(self._slots(worker) for worker in self.workers().values())
        return slots if self.jobs is None else min(slots, self.jobs)

    def _slots(self, worker: Mapping[str, Any]) -> int:
        shares = [worker["resources"].get(name, 0) // n for name, n in self.resources.items()]
        return int(min([worker["nthreads"], *shares]))

    def threads(self) -> int:
        """Return the cores of the worker's machine with the fewest, shared out among its slots."""
        known, cores, slots = self.workers(), {}, defaultdict(int)
        for address, n in self.client.run(available_cores).items():
            # One that joined in between is not known yet.
            if address in known:
                host = known[address]["host"]
                cores[host] = min(n, cores.get(host, n))
                slots[host] += self._slots(known[address])
        return max(1, min((cores[host] // max(1, slots[host]) for host in cores), default=1))

    def check(self, file: Path) -> None:
        """Make sure that every worker sees the same files and has the same packages.

        Raises:
            ClusterError: names the first worker that does not.
        """
        for address, (sees, packages) in self.client.run(_what_is_there, str(file)).items():
            if not sees:
                raise ClusterError(
                    f"worker {address} does not see {file}: the clone, its data and its reports "
                    "must stand in a folder that all machines share, under the same path"
                )
            for name, version in package_versions().items():
                if packages[name] != version:
                    raise ClusterError(
                        f"worker {address} has {name} {packages[name]}, not {version}: install "
                        "the same environment on all machines"
                    )

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        resources: Mapping[str, float] | None = None,
    ) -> Future:
        """Hand something to a worker, which must have the resources for it, if any."""
        return self.client.submit(function, *arguments, pure=False, resources=resources or None)

    def result(self, future: Future) -> Any:
        """Return what came of something that was submitted, once it is done.

        Raises:
            ClusterError: the scheduler no longer answers.
            Exception: what was raised.
        """
        try:
            return future.result()
        except CancelledError as error:
            raise ClusterError(GONE) from error


def _what_is_there(file: str) -> tuple[bool, dict[str, str]]:
    return Path(file).is_file(), package_versions()


class _IgnoreInterrupts(WorkerPlugin):
    """Ctrl-C in a terminal reaches all its processes; what it means is the study's to say."""

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
