"""The phantom BTXRD: drawn radiographs in the release's layout, for tests, demo and examples."""

from btxrd.extras.phantom.layout import make_phantom

__all__ = ["make_phantom"]
