"""Look into WAV files for what libsndfile does not read: MP3, and sizes that nobody filled in."""

from dataclasses import dataclass

from deepspeech2.audio.source import STREAMED, AudioError, Recording

_MPEG_TAGS = (0x50, 0x55)  # MPEG layer II, MP3
_MOST_CHUNKS = 1000  # before the samples


@dataclass(frozen=True)
class Wave:
    """The parts of a WAV file: where the samples are, and how they are coded.

    Attributes:
        tag: number of the coding; None where the samples stand before it.
        start: position of the samples.
        size: bytes of the samples, as the header has it.
        riff_size: bytes of the whole file after its first eight, as the header has it.
    """

    tag: int | None
    start: int
    size: int
    riff_size: int

    def is_mpeg(self) -> bool:
        """Whether the samples are MPEG audio."""
        return self.tag in _MPEG_TAGS

    def mpeg_end(self, recording: Recording) -> int:
        """Where the MPEG frames end.

        Raises:
            AudioError: for a truncated file.
        """
        if not 0 < self.size < STREAMED:
            return recording.size
        if self.start + self.size > recording.size:
            raise AudioError(
                f"{recording.name}: the audio is truncated: {recording.size - self.start} bytes "
                f"where the header says {self.size}"
            )
        return self.start + self.size

    def mended_sizes(self, recording: Recording) -> dict[int, bytes]:
        """What to read for the sizes of a file whose writer was stopped before it filled them in.

        Returns:
            Bytes by their position; none where the sizes are right.
        """
        rest = recording.size - self.start
        if self.size or not rest or self.riff_size + 8 == recording.size:
            return {}
        unknown = b"\xff" * 4
        return {4: unknown, self.start - 4: unknown}


def parse(recording: Recording) -> Wave | None:
    """What a file's header says; None for anything but a RIFF file of samples."""
    start = recording.read(0, 12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return None
    tag, position = None, 12
    for _ in range(_MOST_CHUNKS):
        header = recording.read(position, 34)
        if len(header) < 8:
            return None
        size = int.from_bytes(header[4:8], "little")
        if header[:4] == b"data":
            return Wave(tag, position + 8, size, int.from_bytes(start[4:8], "little"))
        if header[:4] == b"fmt ":
            tag = int.from_bytes(header[8:10], "little")
            if tag == 0xFFFE:  # extensible: the tag is in the sub-format
                tag = int.from_bytes(header[32:34], "little")
        position += 8 + size + size % 2
    return None
