"""The memory of the C library that a computation keeps, and gives back."""

import platform
import resource

import psutil
import pytest
import torch

from btxrd.models.memory import keeping_memory

MEGABYTES = 128


def faults() -> int:
    """Take and free a large tensor three times; returns how many pages the system had to clear."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(MEGABYTES << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    return psutil.Process().memory_info().rss >> 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing changes elsewhere")
def test_freed_memory_is_kept_until_the_end():
    before = resident()
    with keeping_memory():
        assert [faults() for _ in range(4)][-1] < 1_000
        assert resident() > before + MEGABYTES / 2
    assert resident() < before + MEGABYTES / 2
