/** A result on the page: text that grows, words that can be heard, and files to take away. */

import { WRITERS } from "./writers.js";

const AROUND = 0.1; // seconds played before and after a word
const UNSURE = 0.5;

export class Result {
  /** stem: of the names of downloads. Actions: what `Cancel` and `Try again` do. */
  constructor(name, stem, { cancel, again } = {}) {
    const content = document.getElementById("result").content.cloneNode(true);
    this.card = content.firstElementChild;
    const find = (selector) => this.card.querySelector(selector);
    this.facts = find(".facts");
    this.state = find(".state");
    this.progress = find("progress");
    this.words = find(".words");
    this.partial = find(".partial");
    this.tools = find(".tools");
    this.audio = find("audio");
    this.cancel = find(".cancel");
    this.again = find(".again");
    this.cancel.onclick = cancel;
    this.again.onclick = again;
    this.stem = stem;
    this.transcript = { segments: [], duration: 0 };
    this.hint = find(".tools .meta");
    this.until = Infinity; // where the audio stops by itself
    find("h2").textContent = name;
    find(".confidence").onchange = ({ target }) =>
      this.card.classList.toggle("sure", target.checked);
    for (const button of this.card.querySelectorAll("[data-format]")) {
      button.onclick = () => this.download(button.dataset.format);
    }
    this.words.onclick = ({ target }) => this.play(target.closest(".word"));
    this.words.onkeydown = (event) => this.press(event);
    this.audio.onpause = () => this.rest();
    this.audio.onerror = () => {
      this.audio.hidden = true;
      this.hint.textContent = "This browser cannot play recordings of this kind.";
    };
    document.getElementById("results").prepend(content);
  }

  // --- how far it is ---------------------------------------------------------------------------

  /** Says what is being done. share: 0 to 1, null where it is unknown. */
  work(message, share = null) {
    this.say(message);
    this.progress.hidden = false;
    this.cancel.hidden = !this.cancel.onclick;
    this.again.hidden = true;
    if (share === null) this.progress.removeAttribute("value");
    else this.progress.value = share;
  }

  /** Says that it failed. */
  fail(message) {
    this.stop(message);
    this.state.classList.add("error");
    this.again.hidden = !this.again.onclick;
  }

  /** Says how it ended; "" for the usual end. */
  stop(message = "") {
    this.say(message);
    this.progress.hidden = this.cancel.hidden = this.again.hidden = true;
  }

  say(message) {
    this.state.classList.remove("error");
    this.state.firstElementChild.textContent = message;
  }

  // --- its text --------------------------------------------------------------------------------

  /** Adds words to the segment that is open. */
  add(words) {
    const { segments } = this.transcript;
    if (!this.open) {
      this.open = document.createElement("span");
      this.open.className = "segment open";
      this.open.dataset.time = minutes(words[0].start);
      this.words.append(this.open);
      segments.push({ words: [], probability: 0 });
    }
    for (const word of words) {
      segments.at(-1).words.push(word);
      this.open.append(this.wordElement(word), " ");
    }
  }

  /** Ends the open segment. */
  endSegment(probability) {
    const segment = this.transcript.segments.at(-1);
    if (this.open) {
      segment.probability = probability ?? meanProbability(segment.words);
      this.open.classList.remove("open");
      this.open = null;
    }
  }

  /** Shows the word in progress. */
  showPartial(text) {
    this.partial.textContent = text;
  }

  /** The text is complete. */
  finish(duration, recording) {
    this.endSegment();
    this.showPartial("");
    this.transcript.duration = duration;
    const count = this.words.querySelectorAll(".word").length;
    this.facts.textContent = `${minutes(duration)}, ${count} ${count === 1 ? "word" : "words"}`;
    if (!count) this.words.textContent = "No words were recognised.";
    this.audio.src = URL.createObjectURL(recording);
    this.tools.hidden = false;
  }

  wordElement(word) {
    const element = document.createElement("span");
    element.className = word.probability < UNSURE ? "word unsure" : "word";
    element.setAttribute("role", "button");
    element.tabIndex = this.words.querySelector(".word") ? -1 : 0; // one stop for the Tab key
    element.dataset.sure = `${Math.round(100 * word.probability)} %`;
    element.textContent = word.word;
    element.word = word;
    return element;
  }

  // --- hearing it ------------------------------------------------------------------------------

  press(event) {
    const all = [...this.words.querySelectorAll(".word")];
    const at = all.indexOf(event.target);
    const goal = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (all[goal]) {
      event.target.tabIndex = -1;
      all[goal].tabIndex = 0;
      all[goal].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      this.play(event.target);
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Plays a word of the recording, when it is there. */
  play(element) {
    if (!element || !this.audio.src || this.audio.hidden) return;
    this.rest();
    element.classList.add("playing");
    this.until = element.word.end + AROUND;
    this.audio.currentTime = Math.max(0, element.word.start - AROUND);
    this.audio.play().catch(() => this.rest()); // another word was chosen, or it cannot be played
    this.watch();
  }

  watch() {
    if (this.audio.currentTime >= this.until) this.audio.pause();
    else if (this.until < Infinity) requestAnimationFrame(() => this.watch());
  }

  rest() {
    this.until = Infinity;
    this.words.querySelector(".playing")?.classList.remove("playing");
  }

  // --- taking it away --------------------------------------------------------------------------

  download(format) {
    const { kind, content } = WRITERS[format](this.transcript);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: kind }));
    link.download = `${this.stem}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }
}

/** Of a segment, from its words: as many letters as a word has, as much does it count. */
function meanProbability(words) {
  let [sum, letters] = [0, 0];
  for (const { word, probability } of words) {
    sum += word.length * Math.log(Math.max(probability, 1e-9));
    letters += word.length;
  }
  return Math.round(1e4 * Math.exp(sum / letters)) / 1e4;
}

export function minutes(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
