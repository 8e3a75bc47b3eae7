"""Commands for looking at runs, models and augmentations: `python -m tools.NAME`."""
