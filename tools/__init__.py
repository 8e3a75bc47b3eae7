"""Commands that convert models, and show runs, errors and augmentations: `python -m tools.NAME`."""
