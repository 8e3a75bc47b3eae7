"""A transcript as OpenAI's service answers it."""

import json
import math
import zlib

from starlette.responses import JSONResponse, PlainTextResponse, Response

from deepspeech2.result import Segment, Transcript
from deepspeech2.writers import Layout, to_srt, to_txt, to_vtt

LANGUAGE = "unknown"  # a model does not say which language it was trained with


def answer(
    transcript: Transcript, response_format: str, granularities: tuple[str, ...]
) -> Response:
    """The response with a transcript; see `uploads.Question`."""
    layout = Layout()
    if response_format == "text":
        return PlainTextResponse(to_txt(transcript, layout))
    if response_format == "srt":
        return PlainTextResponse(to_srt(transcript, layout))
    if response_format == "vtt":
        return PlainTextResponse(to_vtt(transcript, layout), media_type="text/vtt")
    content = {"text": transcript.text, "usage": _usage(transcript)}
    if response_format == "verbose_json":
        content |= _details(transcript, granularities)
    return JSONResponse(content)


def _usage(transcript: Transcript) -> dict:
    return {"type": "duration", "seconds": round(transcript.duration, 3)}


def _details(transcript: Transcript, granularities: tuple[str, ...]) -> dict:
    content = {
        "task": "transcribe",
        "language": LANGUAGE,
        "duration": round(transcript.duration, 3),
    }
    if "segment" in granularities:
        content["segments"] = [
            _segment(number, segment) for number, segment in enumerate(transcript.segments)
        ]
    if "word" in granularities:
        content["words"] = [
            {
                "word": word.word,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "probability": round(word.probability, 4),  # ours
            }
            for segment in transcript.segments
            for word in segment.words
        ]
    return content


def _segment(number: int, segment: Segment) -> dict:
    """A segment with all fields that clients in typed languages require."""
    text = segment.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(math.log(max(segment.probability, 1e-9)), 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),
        "no_speech_prob": 0.0,
    }


def event(content: dict) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def delta(segment: Segment, first: bool) -> str:
    """The event of a segment: all deltas together are the text."""
    text = segment.text if first else f" {segment.text}"
    return event({"type": "transcript.text.delta", "delta": text})


def done(transcript: Transcript) -> str:
    """The event of the whole transcript."""
    return event({"type": "transcript.text.done", "text": transcript.text})
