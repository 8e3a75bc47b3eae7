/**
 * Transcripts as files, equal to those of `deepspeech2 transcribe` (deepspeech2/writers.py).
 *
 * A transcript is {segments: [{words: [{word, start, end, probability}], probability}], duration};
 * times are seconds.
 */

const LINE_WIDTH = 42; // characters
const LINES = 2; // shown at once
const CUE_SECONDS = 7;
const PAUSE_SECONDS = 1.5;

export const textOf = (words) => words.map(({ word }) => word).join(" ");

export const WRITERS = {
  txt: (transcript) => ({ kind: "text/plain", content: `${wholeText(transcript)}\n` }),
  srt: (transcript) => ({
    kind: "application/x-subrip",
    content: cues(transcript)
      .map((cue, i) => `${i + 1}\n${shown(cue, ",", (text) => text.replaceAll(/-{2,}>/g, "->"))}`)
      .join(""),
  }),
  vtt: (transcript) => ({
    kind: "text/vtt",
    content: `WEBVTT\n\n${cues(transcript).map((cue) => shown(cue, ".", escaped)).join("")}`,
  }),
  json: (transcript) => ({ kind: "application/json", content: json(transcript) }),
};

const wholeText = ({ segments }) => segments.map(({ words }) => textOf(words)).join(" ");

const escaped = (text) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function json({ segments, duration }) {
  const rows = segments.map(({ words, probability }, id) => ({
    id,
    start: words[0].start,
    end: words.at(-1).end,
    text: textOf(words),
    probability,
    words,
  }));
  const content = { text: wholeText({ segments }), segments: rows, duration, alternatives: [] };
  return `${JSON.stringify(content, null, 2)}\n`;
}

/** Lists of words that are shown together. */
function cues({ segments }) {
  const result = [];
  for (const { words } of segments) {
    let group = [];
    for (const word of words) {
      if (group.length && !continues(group, word)) {
        result.push(group);
        group = [];
      }
      group.push(word);
    }
    result.push(group);
  }
  return result;
}

const continues = (group, word) =>
  word.start - group.at(-1).end < PAUSE_SECONDS &&
  word.end - group[0].start <= CUE_SECONDS &&
  lines([...group, word]).length <= LINES;

function lines(words) {
  const result = [[]];
  let width = 0;
  for (const { word } of words) {
    const characters = [...word].length;
    width += 1 + characters;
    if (result.at(-1).length && width - 1 > LINE_WIDTH) {
      result.push([]);
      width = 1 + characters;
    }
    result.at(-1).push(word);
  }
  return result;
}

function shown(cue, separator, escape) {
  const text = lines(cue).map((line) => line.map(escape).join(" ")).join("\n");
  const [start, end] = [cue[0].start, cue.at(-1).end].map((time) => clock(time, separator));
  return `${start} --> ${end}\n${text}\n\n`;
}

function clock(seconds, separator) {
  const milliseconds = Math.round(1000 * seconds);
  const digits = (value, count) => String(value).padStart(count, "0");
  const [hours, minutes, rest] = [3600000, 60000, 1000].map((unit, i) =>
    digits(Math.floor(milliseconds / unit) % (i ? 60 : Infinity), 2),
  );
  return `${hours}:${minutes}:${rest}${separator}${digits(milliseconds % 1000, 3)}`;
}
