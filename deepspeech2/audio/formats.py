"""Tell by its first bytes what a file is that libsndfile does not read."""

import re
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
        streamed: whether libsndfile calls a file malformed whose writer did not fill in its size.
    """

    name: str
    demuxer: str
    common: bool = False
    streamed: bool = False


_MP4 = Format("MP4 or QuickTime (m4a, mp4, mov, 3gp)", "mov")
_REAL = Format("RealMedia", "rm")
_MUSEPACK, _MPEG = "Musepack", "MPEG video"
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
    (0, b"FRM8", Format("DSD", "iff")),
    (0, b"ajkg", Format("Shorten", "shn")),
    (0, b"MPCK", Format(_MUSEPACK, "mpc8")),
    (0, b"MP+", Format(_MUSEPACK, "mpc")),
    (0, b".RMF", _REAL),
    (0, b".ra\xfd", _REAL),
    (0, b"\0\0\1\xba", Format(_MPEG, "mpeg")),
    (0, b"\0\0\1\xb3", Format(_MPEG, "mpegvideo")),
    (0, b"\x0b\x77", Format("AC-3", "ac3")),
    (0, b"fLaC", Format("FLAC", "flac", common=True)),
    (8, b"WAVE", Format("WAV", "wav", common=True)),
    (0, b".snd", Format("AU", "au", common=True)),
    (0, b"caff", Format("CAF", "caf", common=True, streamed=True)),
    (0, b"FORM", Format("AIFF", "aiff", common=True)),
)
_TS_PACKET = 188  # bytes of a packet of an MPEG transport stream
_SEARCHED = 1 << 14  # bytes at the beginning
_ADTS_SYNC = re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")
_ADTS_HEADER = 7  # bytes
_SURE = 3  # frames in a row that are no coincidence


def identify(recording: Recording) -> Format | None:
    """The format of a file without tags in front; None for an unknown one."""
    start = recording.read(0, _SEARCHED)
    if start[:4] == b"OggS":
        return _ogg(start)
    if start[:1] == start[_TS_PACKET : _TS_PACKET + 1] == b"G":
        return Format("MPEG transport stream", "mpegts")
    for position, magic, form in _MAGIC:
        if start[position : position + len(magic)] == magic:
            return form
    return Format("AAC", "aac") if _has_adts_frames(start) else None


def _has_adts_frames(start: bytes) -> bool:
    """Whether frames of AAC follow each other; what a station sends begins within a frame."""
    for sync in _ADTS_SYNC.finditer(start):
        position, frames = sync.start(), 0
        while _ADTS_SYNC.match(start, position) and frames < _SURE:
            size = int.from_bytes(start[position + 3 : position + 6], "big") >> 5 & 0x1FFF
            position, frames = position + max(size, _ADTS_HEADER), frames + 1
        at_end = position == len(start) and frames > 1
        if frames == _SURE or at_end or not sync.start() and position >= len(start):
            return True
    return False


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
    return f"pip install '.[media]' in a checkout to read it, or convert it: {command}"
