"""Models as files for other programs: `python -m tools.export`."""
