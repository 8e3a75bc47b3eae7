"""Decoders and edit distances with the interface of deepspeech.pytorch V2.1."""
