"""What stands behind a door of its own: phantoms, pages with scripts, probes, the example study."""
