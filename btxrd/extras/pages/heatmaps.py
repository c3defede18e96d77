"""`heatmaps.js`: the heat maps of a run's test images, small, for the case browser.

It is a script and not JSON, because a page that is opened as a file may load scripts beside it and
nothing else. Each map keeps the resolution that it was made at, as bytes: 255 is its own highest
value, so the maps of two images do not tell which of them was higher.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btxrd.files import atomic_path

__all__ = ["write_heatmaps"]


def write_heatmaps(
    path: str | Path,
    image_ids: Sequence[str],
    sources: Mapping[str, NDArray[np.float32]],
    **facts: str,
) -> None:
    """Write the maps of some images, atomically.

    Args:
        path: the file.
        image_ids: the names of N images.
        sources: origin of the maps, such as `network` → floats (N, h, w), at least 0, of a
            resolution of their own. It is empty where there are no maps.
        facts: what else the page is told: `run`, `method`, and `why` there are no maps.
    """
    content: dict[str, Any] = {**facts, "sources": {}}
    for source, maps in sources.items():
        highest = maps.max(axis=(1, 2), keepdims=True)
        levels = np.rint(255 * (maps / np.where(highest > 0, highest, 1))).astype(np.uint8)
        texts = [base64.b64encode(level.tobytes()).decode() for level in levels]
        content["sources"][source] = {
            "shape": maps.shape[1:],
            "maps": dict(zip(image_ids, texts, strict=True)),
        }
    with atomic_path(path) as temporary:
        temporary.write_text(f"btxrdHeatmaps({json.dumps(content)});\n")
