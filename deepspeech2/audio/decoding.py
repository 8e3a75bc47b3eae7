"""Decode a recording into parts, by whatever reads its format."""

from collections.abc import Iterator

from deepspeech2.audio import libsndfile, ogg
from deepspeech2.audio.source import AudioError, Part, Recording


def parts_of(recording: Recording) -> Iterator[Part]:
    """The parts of a recording, one after another, at least one.

    Raises:
        AudioError: for whatever cannot be read whole; while the blocks are read, too.
    """
    plain = libsndfile.read_plain_wav(recording)
    if plain:
        yield plain
        return
    yield from libsndfile.decode(recording)
    if recording.read(0, 4) == b"OggS" and ogg.ends_within_page(recording):
        raise AudioError(f"{recording.name}: the audio is truncated: it ends within an Ogg page")
