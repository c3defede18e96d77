"""Threads that wait for each other without taking the cores from other programs."""

import os
import subprocess
import sys

import pytest

NAMES = "import threading; print(*(thread.name for thread in threading.enumerate()))"
SPINS = "import os; print(os.environ['GOMP_SPINCOUNT'])"


@pytest.mark.parametrize(
    ("imports", "given", "team", "spins"),
    [
        ("import btxrd, torch", {}, False, "100"),
        ("import torch, btxrd", {}, True, "100"),
        ("import torch, btxrd", {"GOMP_SPINCOUNT": "5"}, False, "5"),
    ],
)
def test_openmp_waits_patiently_whatever_is_imported_first(imports, given, team, spins):
    variables = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {k: v for k, v in os.environ.items() if k not in variables} | given
    command = [sys.executable, "-c", f"{imports}\n{NAMES}\n{SPINS}"]
    said = subprocess.check_output(command, env=environment, text=True)
    threads, set_to = said.splitlines()
    assert ("btxrd-openmp" in threads) == team
    assert set_to == spins
