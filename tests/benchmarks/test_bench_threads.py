"""A training step on shared cores: as torch comes, and as `import btxrd` lets its threads wait.

Run with `pytest tests/benchmarks/test_bench_threads.py -s -o addopts=` on a machine with two cores
that has nothing else to do: the other program is started here, in a session of its own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

STEPS = """
import sys, time
import torch
{before}
from timm import create_model
size, batch, steps = map(int, sys.argv[1:])
network = create_model("efficientnet_lite0", num_classes=3).to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(network.parameters(), fused=True)
images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
taken = []
for _ in range(steps + 1):
    start = time.perf_counter()
    loss = torch.nn.functional.cross_entropy(network(images), torch.arange(batch) % 3)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    taken.append(time.perf_counter() - start)
print(sorted(taken[1:])[steps // 2])
"""


def step_seconds(before: str, size: int, batch: int, steps: int) -> float:
    """Return the median step in a process of its own that imports torch first."""
    variables = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    command = [sys.executable, "-c", STEPS.format(before=before), *map(str, (size, batch, steps))]
    return float(subprocess.check_output(command, env=environment, text=True))


@contextmanager
def another_program(runs: bool) -> Iterator[None]:
    """Keep one core busy, if it `runs`."""
    command = [sys.executable, "-c", "while True: pass"]
    other = subprocess.Popen(command, start_new_session=True) if runs else None
    try:
        yield
    finally:
        if other:
            other.kill()


@pytest.mark.parametrize(
    ("size", "batch", "busy", "most"),
    [
        (64, 16, True, 1 / 15),
        (224, 32, True, 1 / 2.5),
        (64, 16, False, 1.05),
        (224, 32, False, 1.05),
    ],
)
def test_threads_wait_without_taking_the_cores_from_others(size, batch, busy, most, capsys):
    steps = 5 if busy or size == 224 else 40
    with another_program(busy):
        pairs = [
            [step_seconds(before, size, batch, steps) for before in ("", "import btxrd")]
            for _ in range(3)
        ]
    before, after = np.median(pairs, axis=0)
    ratios = sorted(round(float(theirs / ours), 1) for theirs, ours in pairs)
    with capsys.disabled():
        print(
            f"\n{size} px, {batch} images, another program: {busy}. A step as torch comes "
            f"{before:.3f} s, ours {after:.3f} s; as fast by pairs: {ratios}"
        )
    assert after / before <= most
