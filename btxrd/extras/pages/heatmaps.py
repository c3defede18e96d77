"""`heatmaps.js`: the heat maps of a run's test images, small, for a page and for whoever goes on.

A script and not JSON, because a page that is opened as a file may load scripts beside it and
nothing else. Each map is kept at the resolution that it was made at, as bytes: 255 is its own
highest value, so that maps of different images say nothing of each other's heights.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btxrd.files import atomic_path

__all__ = ["read_heatmaps", "write_heatmaps"]

CALL = "btxrdHeatmaps("


def write_heatmaps(
    path: str | Path,
    image_ids: Sequence[str],
    sources: Mapping[str, NDArray[np.float32]],
    **facts: str,
) -> None:
    """Write the maps of some images, atomically.

    Args:
        path: of the file.
        image_ids: of N images.
        sources: where the maps come from, such as `network` → floats (N, h, w), at least 0, of a
            resolution of their own. None where there are no maps.
        facts: what else the page is told: `run`, `method`, and `why` there are none.

    Raises:
        ValueError: a source has not N maps of two dimensions, or a value below 0 or none.
    """
    ids = list(image_ids)
    content: dict[str, Any] = {**facts, "sources": {}}
    for source, maps in sources.items():
        if maps.ndim != 3 or len(maps) != len(ids):
            raise ValueError(f"{source}: maps must be ({len(ids)}, h, w), found {maps.shape}")
        if not (maps >= 0).all():
            raise ValueError(f"{source}: maps must be 0 or more everywhere, and no NaN")
        highest = maps.max(axis=(1, 2), keepdims=True)
        levels = np.rint(255 * (maps / np.where(highest > 0, highest, 1))).astype(np.uint8)
        texts = [base64.b64encode(level.tobytes()).decode() for level in levels]
        content["sources"][source] = {
            "shape": maps.shape[1:],
            "maps": dict(zip(ids, texts, strict=True)),
        }
    with atomic_path(path) as temporary:
        temporary.write_text(f"{CALL}{json.dumps(content)});\n")


def read_heatmaps(path: str | Path, source: str = "network") -> dict[str, NDArray[np.uint8]]:
    """Read the maps of one source.

    Returns:
        image_id → uint8 (h, w), 255 where the map is highest, 0 everywhere where it is empty. No
        images where the network has no maps.

    Raises:
        FileNotFoundError: there is no such file: notebook 05 writes it.
        ValueError: it is another file, or has maps but none of this source.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "heatmaps.js")
    >>> write_heatmaps(path, ["IMG000001.jpeg"], {"network": np.array([[[0, 0.1], [0.2, 0.4]]])})
    >>> read_heatmaps(path)["IMG000001.jpeg"].tolist()
    [[0, 64], [128, 255]]
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no heat maps {path}: notebook 05 writes them")
    text = path.read_text().strip()
    try:
        found = json.loads(text.removeprefix(CALL).removesuffix(");"))["sources"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{path} holds no heat maps as notebook 05 writes them") from None
    if found and source not in found:
        raise ValueError(f"{path} has no maps of {source!r}; it has {', '.join(found)}")
    kept = found.get(source, {"maps": {}})
    return {
        image_id: np.frombuffer(base64.b64decode(level), np.uint8).reshape(kept["shape"])
        for image_id, level in kept["maps"].items()
    }
