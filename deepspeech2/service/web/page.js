/** The page: files and speech go to the service, words come back. */

import { Microphone, obstacle, Recording } from "./microphone.js";
import { minutes, Result } from "./result.js";
import { Service } from "./service.js";
import { textOf } from "./writers.js";

const SLOW_SECONDS = 5; // of speech that wait to be sent
const QUIET_SECONDS = 3;

const find = (id) => document.getElementById(id);
const service = new Service();
let model = null;

const announce = (message) => (find("status").textContent = message);

// --- the model, and the key -----------------------------------------------------------------------

async function begin() {
  try {
    model = await service.model();
  } catch (error) {
    if (error.needsKey) askForKey("");
    else {
      find("model").textContent = "";
      announce(`${error.message} Then reload this page.`);
    }
    return;
  }
  find("model").textContent = `Model: ${model.id}`;
  find("key").hidden = true;
  find("files").disabled = false;
  const why = model.streaming
    ? obstacle()
    : `The model ${model.id} needs whole recordings: it can recognise files, but not listen.`;
  find("speak").disabled = Boolean(why);
  if (why) find("speak-hint").textContent = why;
}

function askForKey(message) {
  find("key").hidden = false;
  find("key-error").textContent = message;
  find("model").textContent = "";
  find("key-text").focus();
}

find("key").onsubmit = async (event) => {
  event.preventDefault();
  service.useKey(find("key-text").value);
  find("key-text").value = "";
  find("key-error").textContent = "";
  model = null;
  await begin();
  if (!model && !find("key").hidden) askForKey("The key is wrong.");
  if (model) find("files").focus();
};

// --- files ----------------------------------------------------------------------------------------

const waiting = [];
let busy = false;

/** Recognises files one after the other, as a service with many clients likes it. */
async function add(files) {
  if (!model) {
    announce("Files can be recognised as soon as the service has answered.");
    return;
  }
  for (const file of files) {
    const abort = new AbortController();
    const job = { file, signal: abort.signal };
    job.result = new Result(file.name, file.name.replace(/\.[^.]+$/, ""), {
      cancel: () => abort.abort(),
      again: () => repeat(job),
    });
    enqueue(job);
  }
}

function repeat({ file, result }) {
  const abort = new AbortController();
  result.cancel.onclick = () => abort.abort();
  enqueue({ file, result, signal: abort.signal });
}

async function enqueue(job) {
  job.result.work("It waits for the files before it.", 0);
  waiting.push(job);
  if (busy) return;
  busy = true;
  while (waiting.length) await recognise(waiting.shift());
  busy = false;
}

async function recognise(job) {
  const { file, result, signal } = job;
  if (signal.aborted) {
    result.stop("Cancelled.");
    return;
  }
  announce(`Recognising ${file.name} …`);
  const started = Date.now();
  let sent = 0;
  const show = () => {
    const percent = Math.floor(100 * sent);
    if (sent < 1) result.work(`Sending: ${percent} %`, sent);
    else result.work(`Recognising, ${minutes((Date.now() - started) / 1000)} min so far`);
  };
  show();
  const timer = setInterval(show, 1000);
  try {
    const onSent = (share) => {
      sent = share;
      show();
    };
    const transcript = await service.transcribe(file, model.id, onSent, signal);
    if (transcript) showTranscript(result, transcript, file);
    else result.stop("Cancelled.");
    announce(transcript ? `${file.name} is recognised.` : `${file.name} was cancelled.`);
  } catch (error) {
    result.fail(error.message);
    announce(`${file.name} was not recognised: ${error.message}`);
    if (error.needsKey) askForKey("The key is wrong.");
  } finally {
    clearInterval(timer);
  }
}

function showTranscript(result, { segments, duration }, file) {
  result.stop();
  for (const { words, probability } of segments) {
    result.add(words);
    result.endSegment(probability);
  }
  result.finish(duration, file);
}

find("files").onchange = ({ target }) => {
  add([...target.files]);
  target.value = ""; // so that the same file can be chosen again
};

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
for (const kind of ["dragleave", "drop"]) {
  addEventListener(kind, () => document.body.classList.remove("dropping"));
}
addEventListener("drop", (event) => {
  event.preventDefault();
  add([...event.dataTransfer.files]);
});

// --- speech ---------------------------------------------------------------------------------------

let speech = null;

find("speak").onclick = async () => {
  if (speech) {
    speech.stop();
    return;
  }
  find("speak").disabled = true;
  try {
    speech = new Speech();
    await speech.begin();
    showSpeaking(Boolean(speech)); // the connection may be closed already
  } catch (error) {
    speech = null;
    announce(error.message);
  }
  find("speak").disabled = false;
};

function showSpeaking(on) {
  find("speak").textContent = on ? "Stop" : "Start";
  find("speak").classList.toggle("on", on);
  find("level").parentElement.hidden = !on;
}

/** What is said from Start to Stop. */
class Speech {
  constructor() {
    this.early = []; // samples that came before the connection was there
    this.problem = "";
    this.quiet = 0; // chunks without a sound
    this.stopping = this.accepted = false;
  }

  async begin() {
    this.microphone = await Microphone.open((samples, peak) => this.hear(samples, peak));
    try {
      this.connect();
    } catch (error) {
      await this.microphone.close();
      throw error;
    }
  }

  connect() {
    const { rate } = this.microphone;
    this.socket = service.listen(model.id, rate);
    this.socket.onopen = () => this.open();
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = () => this.end();
    this.recording = new Recording(rate);
    this.microphone.onGone(() => {
      this.problem ||= "The microphone was taken away.";
      this.stop();
    });
    announce("Connecting …");
  }

  open() {
    this.accepted = true;
    this.result = new Result(`Speech, ${new Date().toLocaleTimeString()}`, "speech");
    this.early.forEach((samples) => this.send(samples));
    this.early = [];
    announce("Listening: speak now.");
    if (this.stopping) this.close();
  }

  hear(samples, peak) {
    find("level").value = peak ? Math.max(0, 1 + Math.log10(peak) / 3) : 0; // from -60 dB on
    this.quiet = peak ? 0 : this.quiet + 1;
    if (this.quiet === 10 * QUIET_SECONDS) {
      announce("The microphone gives no sound at all: it may be muted.");
    }
    if (this.accepted) this.send(samples);
    else this.early.push(samples);
  }

  send(samples) {
    if (this.socket.readyState !== WebSocket.OPEN || !samples.length) return;
    this.socket.send(samples);
    this.recording.add(samples);
    if (this.socket.bufferedAmount > 2 * SLOW_SECONDS * this.microphone.rate) {
      announce("The connection is slower than your speech: words will come late.");
    }
  }

  take(message) {
    if (message.type === "Error") this.problem = message.description;
    if (message.type !== "Results") return;
    const [{ transcript, words }] = message.channel.alternatives;
    if (!message.is_final) {
      this.result.showPartial(transcript);
      return;
    }
    this.result.showPartial("");
    if (words.length) {
      this.result.add(words.map(({ confidence, ...word }) => ({ ...word, probability: confidence })));
      find("news").textContent = textOf(words);
    }
    if (message.speech_final) this.result.endSegment();
  }

  /** The last samples are sent; the service answers with the last words, and closes. */
  async stop() {
    if (this.stopping) return;
    this.stopping = true;
    find("speak").disabled = true;
    announce("Waiting for the last words …");
    await this.microphone.close();
    if (this.accepted) this.close();
  }

  close() {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send('{"type": "CloseStream"}');
  }

  /** The connection is closed. */
  async end() {
    const unasked = !this.stopping;
    if (unasked) {
      this.stopping = true;
      await this.microphone.close();
    }
    speech = null;
    showSpeaking(false);
    find("speak").disabled = false;
    if (!this.accepted) {
      const reason = await service.whyNoStream();
      announce(reason.message);
      if (reason.needsKey) askForKey(reason.message);
      return;
    }
    if (unasked) this.problem ||= "The connection broke off.";
    this.result.stop();
    this.result.finish(this.recording.bytes / 2 / this.recording.rate, this.recording.wav());
    if (this.problem) this.result.fail(`${this.problem} What was said until then is here.`);
    announce(this.problem || "Finished.");
  }
}

begin();
