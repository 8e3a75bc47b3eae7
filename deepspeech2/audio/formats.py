"""Tell by its first bytes what a file is that libsndfile does not read."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from deepspeech2.audio.source import Recording


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: for messages.
        demuxer: FFmpeg's name of what takes it apart.
        common: whether libsndfile reads it too, with most codings.
    """

    name: str
    demuxer: str
    common: bool = False


_MP4 = Format("MP4 or QuickTime (m4a, mp4, mov, 3gp)", "mov")
_REAL = Format("RealMedia", "rm")
_MUSEPACK = "Musepack"
_MAGIC = (  # position, bytes, format
    (4, b"ftyp", _MP4),
    (4, b"moov", _MP4),
    (4, b"mdat", _MP4),
    (0, b"\x1aE\xdf\xa3", Format("Matroska or WebM", "matroska")),
    (0, b"#!AMR", Format("AMR", "amr")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Format("Windows Media (wma, wmv, asf)", "asf")),
    (0, b"FLV\1", Format("Flash video", "flv")),
    (8, b"AVI ", Format("AVI", "avi")),
    (0, b"wvpk", Format("WavPack", "wv")),
    (0, b"MAC ", Format("Monkey's Audio", "ape")),
    (0, b"TTA1", Format("True Audio", "tta")),
    (0, b"tBaK", Format("TAK", "tak")),
    (0, b"DSD ", Format("DSD", "dsf")),
    (0, b"MPCK", Format(_MUSEPACK, "mpc8")),
    (0, b"MP+", Format(_MUSEPACK, "mpc")),
    (0, b".RMF", _REAL),
    (0, b".ra\xfd", _REAL),
    (0, b"\0\0\1\xba", Format("MPEG video", "mpeg")),
    (0, b"\x0b\x77", Format("AC-3", "ac3")),
    (8, b"WAVE", Format("WAV", "wav", common=True)),
    (0, b".snd", Format("AU", "au", common=True)),
    (0, b"caff", Format("CAF", "caf", common=True)),
    (0, b"FORM", Format("AIFF", "aiff", common=True)),
)
_TS_PACKET = 188  # bytes of a packet of an MPEG transport stream


def identify(recording: Recording) -> Format | None:
    """The format of a file; None for an unknown one."""
    start = recording.read(0, 4096)
    if start[:3] == b"ID3" and len(start) >= 10:
        length = 0
        for byte in start[6:10]:
            length = length << 7 | byte & 0x7F
        start = recording.read(10 + length, 4096)
    if start[:4] == b"OggS":
        return _ogg(start)
    if start[:1] == start[_TS_PACKET : _TS_PACKET + 1] == b"G":
        return Format("MPEG transport stream", "mpegts")
    if len(start) > 1 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0:
        return Format("AAC", "aac")
    for position, magic, form in _MAGIC:
        if start[position : position + len(magic)] == magic:
            return form
    return None


def _ogg(start: bytes) -> Format:
    first = start[28:64]
    for magic, name in ((b"Speex   ", "Speex"), (b"\x7fFLAC", "FLAC"), (b"\x80theora", "video")):
        if magic in first:
            return Format(f"{name} in Ogg", "ogg")
    return Format("Ogg", "ogg", common=True)


def ways_out(recording: Recording) -> str:
    """What somebody can do whose file needs the extra."""
    name = Path(recording.name)
    command = f"ffmpeg -i {shlex.quote(str(name))} {shlex.quote(name.stem + '.wav')}"
    return f"pip install 'deepspeech2[media]' to read it, or convert it: {command}"
