"""What a study costs beside its figures: a kernel's memory, and a study with nothing to do.

Run with `pytest tests/benchmarks/test_bench_study.py -s -o addopts=`.
"""

import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from btxrd.files import PROJECT_ROOT

STEPS = """
import sys, time
from contextlib import nullcontext
import torch
from btxrd.models import BTXRDClassifier
from btxrd.models.memory import keeping_memory
torch.set_num_threads(1)
torch.manual_seed(0)
network = BTXRDClassifier("efficientnet_b0", pretrained=False).train()
images = torch.randn(32, 3, 224, 224).contiguous(memory_format=torch.channels_last)
seconds = []
with keeping_memory() if sys.argv[1] == "keeping" else nullcontext():
    for _ in range(4):
        start = time.process_time()
        network(images).square().mean().backward()
        seconds.append(time.process_time() - start)
print(min(seconds))
"""
"""Steps of training E1 without an optimiser; prints the processor seconds of the fastest."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is kept elsewhere")
def test_a_training_that_keeps_its_memory_takes_a_fifth_less_time():
    """Bound by the convolutions; without, a third goes to pages that are taken and given back."""

    def seconds(how: str) -> float:
        done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, check=True)
        return float(done.stdout)

    plain, keeping = (min(seconds(how) for _ in range(2)) for how in ("plain", "keeping"))
    print(f"\na step of 32 images: {plain:.2f} s, {keeping:.2f} s where memory is kept")
    assert keeping <= 0.8 * plain


def test_a_study_with_nothing_to_do_takes_seconds(real_images: Path, tmp_path: Path):
    """Bound by imports, and by asking for the size and time of 5,600 files."""
    values = {
        "name": "small",
        "dataset_root": str(real_images),
        "cache_dir": str(tmp_path / "cache"),
        "reports_dir": str(tmp_path),
        "splits": ["stratified"],
        "experiments": ["E1_b0_baseline"],
        "overrides": {
            "model": {"backbone": "resnet10t", "pretrained": False},
            "data": {"image_size": 64},
            "training": {"epochs": 1, "warmup_epochs": 0},
        },
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [Path(sys.executable).with_name("btxrd"), "study", file]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    print(f"\nthe study: {seconds[0]:.1f} s, with nothing to do {min(seconds[1:]):.1f} s")
    assert seconds[0] >= 10 * min(seconds[1:])
