"""Measurements of speed and size; nothing here is needed to use the recipe."""
