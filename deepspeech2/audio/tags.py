"""Find the tags around the audio of a file: ID3v2 in front of it, APE and ID3v1 behind it."""

from typing import BinaryIO

from deepspeech2.audio.source import Recording, Section

_ID3V1, _APE_FOOTER = 128, 32  # bytes
_APE_HAS_HEADER = 0x80  # in the last byte of the flags


def end_of_tags(file: BinaryIO, position: int) -> int:
    """Where the tags (ID3v2, ID3v1, APE) end that begin at a position of a file."""
    while True:
        file.seek(position)
        start = file.read(32)
        if start[:3] == b"ID3" and len(start) >= 10:
            length = 0
            for byte in start[6:10]:
                length = length << 7 | byte & 0x7F
            position += 10 + length + (10 if start[5] & 0x10 else 0)
        elif start[:3] == b"TAG":
            position += _ID3V1
        elif start[:8] == b"APETAGEX" and len(start) == 32:
            has_footer_only = not start[23] & 0x20
            position += 32 + (0 if has_footer_only else int.from_bytes(start[12:16], "little"))
        else:
            return position


def start_of_last_tags(recording: Recording) -> int:
    """Where the tags (APE, ID3v1) begin with which a file ends; its size if there are none."""
    end = recording.size
    if recording.read(max(0, end - _ID3V1), 3) == b"TAG":
        end -= _ID3V1
    footer = recording.read(max(0, end - _APE_FOOTER), _APE_FOOTER)
    if footer[:8] == b"APETAGEX":
        header = _APE_FOOTER if footer[23] & _APE_HAS_HEADER else 0
        end -= int.from_bytes(footer[12:16], "little") + header
    return end if end > 0 else recording.size


def without_first_tags(recording: Recording) -> Recording:
    """A recording from the end of the tags on that it begins with; itself if there are none."""
    start = end_of_tags(recording.file, 0)
    return stretch(recording, start, recording.size) if start else recording


def stretch(recording: Recording, start: int, end: int) -> Recording:
    """The part of a recording between two positions."""
    end = max(start, end)
    return Recording(recording.name, Section(recording.file, start, end), end - start)
