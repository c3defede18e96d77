"""btxrd: honest, reproducible classification of bone-tumour radiographs (BTXRD)."""

import os
import sys
import threading
from importlib.metadata import version

# albumentations asks the package registry for its version at import; the study never does.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

SPINS = "100"
"""The turns for which a thread of GNU OpenMP looks for work before it sleeps. By default it does so
for milliseconds; where another program has one of the cores, that makes torch 20 times slower."""


def _hold_a_team() -> None:
    """Start a thread that keeps a team of OpenMP threads asleep, to the end of the process.

    GNU OpenMP reads its variables when it is loaded. Later on, it takes no more turns than `SPINS`
    while it manages more threads than there are cores (its manual, GOMP_SPINCOUNT).
    """
    import torch

    held = threading.Event()

    def hold() -> None:
        torch.zeros(1_000_000).add_(1)
        held.set()
        threading.Event().wait()

    threading.Thread(target=hold, name="btxrd-openmp", daemon=True).start()
    held.wait()


if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    if "torch" in sys.modules:
        _hold_a_team()
    os.environ["GOMP_SPINCOUNT"] = SPINS

__version__ = version("btxrd")

CLASS_NAMES = ("Normal", "Benign", "Malignant")
"""The three classes, in the order of their labels 0, 1, 2."""
CLASS_OF_LABEL = dict(enumerate(CLASS_NAMES))
"""Label → the name of its class."""

NORMALIZATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""ImageNet's channel means and standard deviations, for pixels scaled to [0, 1]."""

RESEARCH_ONLY = "Research only. Not for clinical use: nobody may use this for diagnosis."
"""The sentence that stands on every report."""
