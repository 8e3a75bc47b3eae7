"""Greedy CTC decoding and edit distances behind the interface of deepspeech.pytorch V2.1, written in NumPy."""
