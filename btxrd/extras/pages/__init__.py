"""The parts of a report that need a script: the case browser and the threshold explorer."""

from pathlib import Path

TEMPLATES = Path(__file__).with_name("templates")
