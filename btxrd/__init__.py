"""btxrd: honest, reproducible classification of bone-tumour radiographs (BTXRD)."""

import os
from importlib.metadata import version

# albumentations asks the package registry for its version at import; the study never does.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = version("btxrd")

CLASS_NAMES = ("Normal", "Benign", "Malignant")
"""The three classes, in the order of their labels 0, 1, 2."""
CLASS_OF_LABEL = dict(enumerate(CLASS_NAMES))
"""Label → the name of its class."""

NORMALIZATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""ImageNet's channel means and standard deviations, for pixels scaled to [0, 1]."""

RESEARCH_ONLY = "Research only. Not for clinical use: nobody may use this for diagnosis."
"""The sentence that stands on every report."""
