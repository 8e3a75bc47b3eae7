"""Changes of valid files: of bytes, of lines and numbers in text, of Protocol Buffers messages."""

import random
import re
from collections.abc import Callable, Sequence

Change = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

# numbers at the ends of what formats and types can hold, and what is no number
NUMBERS = (
    "0", "-0", "-1", "1", "2", "255", "65536", "2147483647", "2147483648", "-2147483649",
    "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
    "18446744073709551616", "1" + "0" * 400, "9" * 5000, "1e-400", "1e308", "1e999", "-1e999",
    "nan", "NaN", "inf", "-inf", "Infinity", "-Infinity", "0x10", "1_000", "1:30:00", "0.5.5",
    "٣", "½", "+1", "1,5", "true", "null", "",
)  # fmt: skip
# words that file formats, file systems or Python treat in their own way
WORDS = (
    "..", "../../outside", "/", "/dev/null", "/dev/zero", "/etc/passwd", "~", "~nobody/x", "~a\0b",
    "a\0b", "\0", "\ud800", "\U0010ffff", "é", "ß", "e\u0301", "\u202e", "\ufeff", "\r", "\x1b[2J",
    "A" * 300, "A" * 5000, "\u0301\u0316" * 20_000, "a/" * 2000, '"', "'", '"""', "`", "\\",
    "\\u0000", "\\ud800", "{", "[", "[" * 3000, "{'a':" * 1000, "%s%n", "$(touch outside)", "|",
    "touch outside|", "-", "--", "#", "<", ">", "&", "*", "&a", "*a",
    "!!python/object/apply:os.system ['touch outside']", "<<", ":", ",", ";", "\t", " ", "NULL",
    "None", "True", "__class__", "{0}", "=cmd",
)  # fmt: skip
LONGER = 1 << 20  # bytes that changes may add to a file
_EXTREMES = tuple(
    value.to_bytes(size, order, signed=value < 0)
    for size in (1, 2, 4, 8)
    for order in ("little", "big")
    for value in (0, 1, -1, 2 ** (8 * size - 1) - 1, -(2 ** (8 * size - 1)), 2 ** (8 * size) - 1)
)


def mutate(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """`content` with one to four changes; `others` are files of the same kind."""
    changes = BYTES + 2 * TEXT if _is_text(content) else BYTES
    longest = len(content) + LONGER
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        content = rng.choice(changes)(rng, content, others)[:longest]
    return content


def _is_text(content: bytes) -> bool:
    return b"\0" not in content[:512]


def _span(rng: random.Random, content: bytes, longest: int | None = None) -> slice:
    """A part of `content`; most parts are short."""
    start = rng.randrange(len(content) + 1)
    size = round(2 ** rng.uniform(0, 12)) if rng.random() < 0.8 else rng.randrange(len(content) + 1)
    return slice(start, start + min(size, longest or size))


# bytes


def flip_bits(rng, content, others):
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if result:
            result[rng.randrange(len(result))] ^= 1 << rng.randrange(8)
    return bytes(result)


def set_extreme(rng, content, others):
    """Overwrite a number, most often in the header, with the end of its range."""
    value = rng.choice(_EXTREMES)
    limit = min(len(content), 128) if rng.random() < 0.6 else len(content)
    at = rng.randrange(limit + 1)
    return content[:at] + value + content[at + len(value) :]


def set_random(rng, content, others):
    part = _span(rng, content, 64)
    return content[: part.start] + rng.randbytes(part.stop - part.start) + content[part.stop :]


def truncate(rng, content, others):
    return content[: rng.randrange(len(content) + 1)]


def cut_beginning(rng, content, others):
    return content[rng.randrange(len(content) + 1) :]


def remove(rng, content, others):
    part = _span(rng, content)
    return content[: part.start] + content[part.stop :]


def repeat(rng, content, others):
    part = _span(rng, content, 20_000)
    times = rng.choice((1, 1, 2, 50))
    return content[: part.stop] + content[part] * times + content[part.stop :]


def zero(rng, content, others):
    part = _span(rng, content)
    return content[: part.start] + bytes(len(content[part])) + content[part.stop :]


def insert(rng, content, others):
    at = rng.randrange(len(content) + 1)
    extra = rng.choice((rng.randbytes(rng.randrange(1, 100)), bytes(rng.randrange(1, 5000))))
    return content[:at] + extra + content[at:]


def splice(rng, content, others):
    """The beginning of this file and the end of another."""
    other = rng.choice(others) if others else content
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


def swap(rng, content, others):
    first, second = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    size = rng.randrange(1, 200)
    a, b = content[first : first + size], content[second : second + size]
    return content[:first] + b + content[first + size : second] + a + content[second + size :]


def replace_all(rng, content, others):
    return rng.choice((b"", b"\0", rng.randbytes(rng.randrange(2000)), bytes(1000), b"\xff" * 1000))


BYTES: list[Change] = [
    flip_bits, flip_bits, set_extreme, set_extreme, set_random, truncate, cut_beginning, remove,
    repeat, zero, insert, splice, swap, replace_all,
]  # fmt: skip

# text


def set_number(rng, content, others):
    places = list(re.finditer(rb"-?\d+(?:\.\d+)?", content))
    if not places:
        return insert(rng, content, others)
    place = rng.choice(places)
    number = rng.choice(NUMBERS).encode()
    return content[: place.start()] + number + content[place.end() :]


def set_word(rng, content, others):
    places = list(re.finditer(rb"[^\s,:|\"\[\]{}]+", content))
    word = rng.choice(WORDS).encode("utf-8", "surrogatepass")
    if not places:
        return word
    place = rng.choice(places)
    return content[: place.start()] + word + content[place.end() :]


def insert_word(rng, content, others):
    at = rng.randrange(len(content) + 1)
    word = rng.choice(WORDS + NUMBERS).encode("utf-8", "surrogatepass")
    return content[:at] + word + content[at:]


def change_lines(rng, content, others):
    lines = content.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            lines[i], lines[j] = lines[j], lines[i]
        case 1:
            del lines[i]
        case 2:
            lines.insert(j, lines[i])
        case 3:
            lines[i:i] = [lines[j]] * 200
        case _:
            lines[i] = b"".join(lines[i : i + 2])
    return b"\n".join(lines)


TEXT: list[Change] = [set_number] * 4 + [set_word] * 4 + [insert_word] * 2 + [change_lines] * 3

# Protocol Buffers: the lengths of the enclosing messages stay right


def mutate_message(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """A message with one to four of its fields, at any depth, changed, removed or repeated."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = _change_message(rng, content, depth=0)
    return content


def _change_message(rng: random.Random, content: bytes, depth: int) -> bytes:
    fields = parse_message(content)
    if not fields:
        return mutate(rng, content, [])
    i = rng.randrange(len(fields))
    number, kind, value = fields[i]
    action = rng.random()
    if kind == 2 and depth < 12 and action < 0.7:
        fields[i] = number, kind, _change_message(rng, value, depth + 1)
    elif action < 0.8:
        del fields[i]
    elif action < 0.9:
        fields.insert(rng.randrange(len(fields) + 1), fields[i])
    elif kind == 0:
        fields[i] = number, kind, rng.choice((0, 1, 2**31, 2**32, 2**63, 2**64 - 1, value + 1))
    else:
        fields[i] = number, kind, mutate(rng, value, []) if kind == 2 else value
    return b"".join(serialize_field(*field) for field in fields)


def parse_message(content: bytes) -> list[tuple[int, int, bytes | int]]:
    """The fields of a message as (number, wire type, value); none if it is no message."""
    fields, position = [], 0
    try:
        while position < len(content):
            key, position = _read_varint(content, position)
            kind = key & 7
            if kind == 0:
                value, position = _read_varint(content, position)
            else:
                size, position = {1: (8, position), 5: (4, position)}.get(kind) or (
                    _read_varint(content, position) if kind == 2 else (-1, position)
                )
                if size < 0 or position + size > len(content):
                    return []
                value, position = content[position : position + size], position + size
            fields.append((key >> 3, kind, value))
    except IndexError:
        return []
    return fields


def serialize_field(number: int, kind: int, value: bytes | int) -> bytes:
    key = varint(number << 3 | kind)
    if kind == 0:
        return key + varint(value)
    return key + (varint(len(value)) if kind == 2 else b"") + value


def varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError
