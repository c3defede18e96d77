"""`heatmaps.js`: the heat maps of a run's test images, as small pictures for the case browser.

It is a script and not JSON, because a page that is opened as a file may load scripts beside it and
nothing else. Each map keeps the resolution that it was made at; the browser enlarges it.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from btxrd.files import atomic_path
from btxrd.report.figures import HEAT_MAP

__all__ = ["write_heatmaps"]

OPACITY = 0.6
"""The opacity of a map's hottest place, from 0 to 1."""


def write_heatmaps(
    path: str | Path,
    image_ids: Sequence[str],
    sources: Mapping[str, NDArray[np.float32]],
    **facts: str,
) -> None:
    """Write the maps of N images, atomically.

    Args:
        sources: origin of the maps, such as `network` → floats (N, h, w), of a resolution of their
            own. It is empty where there are no maps.
        facts: what else the page is told: `run`, `method`, and `why` there are no maps.
    """
    maps: dict[str, Any] = {
        source: dict(zip(image_ids, map(_picture, of_source), strict=True))
        for source, of_source in sources.items()
    }
    with atomic_path(path) as temporary:
        temporary.write_text(f"btxrdHeatmaps({json.dumps(facts | {'maps': maps})});\n")


def _picture(heat: NDArray[np.float32]) -> str:
    """Return a map (h, w) as the address of a PNG in itself: the hotter, the more opaque.

    It is scaled to its own extremes, as notebook 05 draws it.
    """
    spread = heat - heat.min()
    shares = spread / (spread.max() or 1)
    colours = colormaps[HEAT_MAP](shares, alpha=OPACITY * shares, bytes=True)  # (h, w, 4)
    png = cv2.imencode(".png", cv2.cvtColor(colours, cv2.COLOR_RGBA2BGRA))[1]
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
