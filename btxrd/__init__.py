"""btxrd: honest, reproducible classification of bone-tumour radiographs (BTXRD)."""

import os
import sys
import threading
from importlib.metadata import version

# albumentations asks the package registry for its version at import; the study never does.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def _hold_a_team(held: threading.Event) -> None:
    """Keep a team of OpenMP threads, asleep, to the end of the process."""
    torch = sys.modules["torch"]
    torch.zeros(1_000_000).add_(1)
    held.set()
    threading.Event().wait()


# A waiting thread of GNU OpenMP keeps a shared core for milliseconds, and torch is 20 times slower.
# Once loaded, it only spins less where it has more threads than cores (manual, GOMP_SPINCOUNT).
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    if "torch" in sys.modules:
        held = threading.Event()
        threading.Thread(target=_hold_a_team, args=[held], name="btxrd-openmp", daemon=True).start()
        held.wait()
    os.environ["GOMP_SPINCOUNT"] = "100"

__version__ = version("btxrd")

CLASS_NAMES = ("Normal", "Benign", "Malignant")
"""The three classes, in the order of their labels 0, 1, 2."""
CLASS_OF_LABEL = dict(enumerate(CLASS_NAMES))
"""Label → the name of its class."""

NORMALIZATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""ImageNet's channel means and standard deviations, for pixels scaled to [0, 1]."""

RESEARCH_ONLY = "Research only. Not for clinical use: nobody may use this for diagnosis."
"""The sentence that stands on every report."""
