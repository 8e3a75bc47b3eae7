"""Recognise speech for clients on the network: files over HTTP, streams over websockets."""
