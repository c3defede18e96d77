"""Rooms that stand behind a door of their own: phantoms, pages with scripts, probes."""
