"""Rooms behind doors of their own: phantoms, pages with scripts, probes, the example study."""
