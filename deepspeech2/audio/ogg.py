"""Find the streams of an Ogg file that stand one after another. Source: RFC 3533."""

from collections.abc import Iterator

from deepspeech2.audio.source import AudioError, Recording

_HEADER, _MAX_PAGE = 27, 65307  # bytes
_BEGINS = 2  # the flag of a stream's first page


def links(recording: Recording) -> list[tuple[int, int]]:
    """Where the joined streams of a file begin and end; those that sound together count as one.

    Raises:
        AudioError: when the file ends within a page, which libsndfile ignores.
    """
    starts, begins = [0], True
    for position, begins_now in _pages(recording):
        if begins_now and not begins:
            starts.append(position)
        begins = begins_now
    return list(zip(starts, [*starts[1:], recording.size], strict=True))


def _pages(recording: Recording) -> Iterator[tuple[int, bool]]:
    """Position of each page, and whether a stream begins there."""
    position = 0
    while header := recording.read(position, _HEADER + 255):
        if header[:4] != b"OggS":
            position = _next_page(recording, position + 1)
            continue
        length = _page_length(header)
        if length is None or position + length > recording.size:
            raise AudioError(
                f"{recording.name}: the audio is truncated: it ends within an Ogg page"
            )
        yield position, bool(header[5] & _BEGINS)
        position += length


def _page_length(header: bytes) -> int | None:
    """Bytes of the page that `header` begins; None where the file ends within its header."""
    if len(header) < _HEADER or len(header) < _HEADER + header[26]:
        return None
    return _HEADER + header[26] + sum(header[_HEADER : _HEADER + header[26]])


def _next_page(recording: Recording, position: int) -> int:
    """Where the next page begins; the end of the file if there is none."""
    while window := recording.read(position, _MAX_PAGE):
        found = window.find(b"OggS")
        if found >= 0:
            return position + found
        position += max(1, len(window) - 3)
    return recording.size
