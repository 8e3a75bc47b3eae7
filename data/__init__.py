"""Prepare corpora: each module turns one source of speech into wav/txt folders and manifests."""
