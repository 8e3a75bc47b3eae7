"""Find the streams of an Ogg file that stand one after another. Source: RFC 3533."""

from deepspeech2.audio.source import Recording

_MAX_PAGE = 65307  # bytes


def ends_within_page(recording: Recording) -> bool:
    """Whether the last page is cut off, which libsndfile ignores."""
    tail = recording.read(max(0, recording.size - _MAX_PAGE), _MAX_PAGE)
    page = tail[tail.rfind(b"OggS") :]
    header, table = 27, page[26] if len(page) > 26 else 0  # bytes
    return len(page) < header or len(page) < header + table + sum(page[header : header + table])
