"""What converts models, and shows runs, errors and augmentations.

Most are commands, `python -m tools.NAME`; `eval.py --report` writes the report.
"""
