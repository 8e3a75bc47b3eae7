"""From class probabilities to text, and from a text to its times."""
