"""Decode class probabilities into text, and align text with frames."""
