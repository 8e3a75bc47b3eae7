"""Decode a recording into parts, by whatever reads its format."""

from collections.abc import Iterator

from deepspeech2.audio import containers, flac, formats, libsndfile, media, mpeg, ogg, riff, tags
from deepspeech2.audio.source import AudioError, Part, Recording, Section

# what libsndfile knows best; anything else may be MPEG audio behind junk
_NOT_MPEG = (b"RIFF", b"RIFX", b"RF64", b"OggS", b"fLaC", b"FORM", b"caff", b".snd", b"NIST")


def parts_of(recording: Recording) -> Iterator[Part]:
    """The parts of a recording, one after another, at least one.

    Raises:
        AudioError: for whatever cannot be read whole; while the blocks are read, too.
    """
    try:
        plain = libsndfile.read_plain_wav(recording)
        yield from [plain] if plain else _parts(recording)
    except OSError as error:
        raise AudioError(
            f"{recording.name}: cannot read the audio: {error.strerror or error}"
        ) from None


def _parts(recording: Recording) -> Iterator[Part]:
    bare = tags.without_first_tags(recording)
    containers.check_whole(bare)
    start, form = bare.read(0, 4), formats.identify(bare)
    if form and not form.common and start != b"OggS":  # libsndfile may know what is in an Ogg
        yield from media.decode(bare, form)
    elif start not in _NOT_MPEG and mpeg.has_frames(recording.file, recording.size):
        yield from mpeg.decode(recording, recording.file, recording.size)
    else:
        begun = False
        try:
            for part in _parts_by_libsndfile(bare):
                begun = True
                yield part
        except libsndfile.NotAudio as error:
            if form is None and bare is not recording:
                raise AudioError(
                    f"{recording.name}: cannot read the audio: there is none after the tag that "
                    "it begins with, or it is cut off there"
                ) from None
            known = form and form.common and not error.unknown and not form.streamed
            if begun or form is None or known:
                raise
            yield from media.decode(bare, form)


def _parts_by_libsndfile(recording: Recording) -> Iterator[Part]:
    if recording.read(0, 4) == b"OggS":
        links = ogg.links(recording)
        for first, end in links:
            section = Section(recording.file, first, end) if len(links) > 1 else None
            yield from libsndfile.decode(recording, section)
        return
    wave = riff.parse(recording)
    if wave and wave.tag is None:
        raise AudioError(
            f"{recording.name}: cannot read the audio: the WAV file has its 'data' chunk before "
            "its 'fmt ' chunk, which says what the data is"
        )
    if wave and wave.is_mpeg():
        section = Section(recording.file, wave.start, wave.mpeg_end(recording))
        yield from mpeg.decode(recording, section, section.seek(0, 2))
    else:
        changes = wave.mended_sizes(recording) if wave else flac.mended_count(recording)
        section = Section(recording.file, 0, recording.size, changes) if changes else None
        yield from libsndfile.decode(recording, section)
