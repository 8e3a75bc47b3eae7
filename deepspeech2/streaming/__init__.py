"""Recognise speech while it is spoken."""
