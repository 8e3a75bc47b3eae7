"""Decode a recording into parts, by whatever reads its format."""

from collections.abc import Iterator

from deepspeech2.audio import flac, formats, libsndfile, media, mpeg, ogg, riff
from deepspeech2.audio.source import AudioError, Part, Recording, Section

# what libsndfile knows best; anything else may be MPEG audio behind tags or junk
_NOT_MPEG = (b"RIFF", b"RIFX", b"RF64", b"OggS", b"fLaC", b"FORM", b"caff", b".snd", b"NIST")


def parts_of(recording: Recording) -> Iterator[Part]:
    """The parts of a recording, one after another, at least one.

    Raises:
        AudioError: for whatever cannot be read whole; while the blocks are read, too.
    """
    begun = False
    try:
        plain = libsndfile.read_plain_wav(recording)
        for part in [plain] if plain else _parts(recording):
            begun = True
            yield part
    except libsndfile.NotAudio as error:
        form = formats.identify(recording)
        if begun or form is None or form.common and not error.unknown:
            raise
        yield from media.decode(recording, form)
    except OSError as error:
        raise AudioError(
            f"{recording.name}: cannot read the audio: {error.strerror or error}"
        ) from None


def _parts(recording: Recording) -> Iterator[Part]:
    size, start = recording.size, recording.read(0, 4)
    if start == b"OggS":
        links = ogg.links(recording)
        for first, end in links:
            section = Section(recording.file, first, end) if len(links) > 1 else None
            yield from libsndfile.decode(recording, section)
        return
    wave = riff.parse(recording)
    if wave and wave.is_mpeg():
        section = Section(recording.file, wave.start, wave.mpeg_end(recording))
        yield from mpeg.decode(recording, section, section.seek(0, 2))
    elif start not in _NOT_MPEG and mpeg.has_frames(recording.file, size):
        yield from mpeg.decode(recording, recording.file, size)
    else:
        changes = wave.mended_sizes(recording) if wave else flac.mended_count(recording)
        section = Section(recording.file, 0, size, changes) if changes else None
        yield from libsndfile.decode(recording, section)
