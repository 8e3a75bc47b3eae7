/** The microphone: samples as the browser gives them, at the rate that the browser chose. */

import { UNREACHABLE } from "./service.js";

const MOST_HERTZ = 48000; // that the service takes

/** Why there is no microphone, in words for the person at the page. */
const REASONS = {
  NotAllowedError:
    "The browser does not let this page use the microphone. Allow it in the browser's settings " +
    "for this page (beside the address), then press Start again.",
  NotFoundError: "There is no microphone. Connect one, then press Start again.",
  NotReadableError:
    "The microphone cannot be used: another program may be using it. Close that program, then " +
    "press Start again.",
};

/** Why no page at this address can use a microphone; "" when it can. */
export function obstacle() {
  if (!window.isSecureContext) {
    return (
      "The microphone can be used only where the address of this page begins with https:// or " +
      "http://localhost. Files can be recognised here."
    );
  }
  if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
    return "This browser gives pages no microphone. Files can be recognised here.";
  }
  return "";
}

export class Microphone {
  /** rate: samples per second. onChunk(samples, peak) gets Int16Arrays; peak is 0 to 1. */
  constructor(stream, context, node, onChunk) {
    this.rate = context.sampleRate;
    this.stream = stream;
    this.context = context;
    this.node = node;
    this.last = new Promise((resolve) => {
      node.port.onmessage = ({ data }) => (data ? onChunk(data.samples, data.peak) : resolve());
    });
  }

  /** Opens the microphone. Throws an Error that says in words why there is none. */
  static async open(onChunk) {
    let stream;
    try {
      // the model shall hear what the microphone hears
      const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new Error(REASONS[error.name] ?? `The microphone cannot be used: ${error.message}`);
    }
    let context;
    try {
      context = await makeContext();
    } catch {
      stream.getTracks().forEach((track) => track.stop());
      throw new Error(UNREACHABLE); // the worklet is a file of the service
    }
    const node = new AudioWorkletNode(context, "chunks", {
      channelCount: 1,
      channelCountMode: "explicit",
    });
    const microphone = new Microphone(stream, context, node, onChunk);
    // nothing is heard of it, but what leads nowhere is not worked on
    context.createMediaStreamSource(stream).connect(node).connect(context.destination);
    return microphone;
  }

  /** Calls a function when the microphone goes away. */
  onGone(call) {
    this.stream.getAudioTracks()[0].onended = call;
  }

  /** Closes the microphone; the last samples have been given out then. */
  async close() {
    this.node.port.postMessage("end");
    await Promise.race([this.last, new Promise((resolve) => setTimeout(resolve, 1000))]);
    this.stream.getTracks().forEach((track) => track.stop());
    await this.context.close();
  }
}

async function makeContext() {
  let context = new AudioContext();
  if (context.sampleRate > MOST_HERTZ) {
    await context.close();
    context = new AudioContext({ sampleRate: MOST_HERTZ });
  }
  await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
  await context.resume();
  return context;
}

/** A recording that grows, as a WAV file with one channel. */
export class Recording {
  constructor(rate) {
    this.rate = rate;
    this.bytes = 0;
    this.parts = [];
  }

  add(samples) {
    this.parts.push(samples);
    this.bytes += samples.byteLength;
    // browsers move a Blob out of the way, an array stays in memory
    if (this.parts.length > 600) this.parts = [new Blob(this.parts)];
  }

  wav() {
    const head = new DataView(new ArrayBuffer(44));
    const text = (at, letters) =>
      [...letters].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
    text(0, "RIFF");
    head.setUint32(4, 36 + this.bytes, true);
    text(8, "WAVEfmt ");
    head.setUint32(16, 16, true);
    head.setUint16(20, 1, true); // PCM
    head.setUint16(22, 1, true); // channels
    head.setUint32(24, this.rate, true);
    head.setUint32(28, 2 * this.rate, true);
    head.setUint16(32, 2, true);
    head.setUint16(34, 16, true);
    text(36, "data");
    head.setUint32(40, this.bytes, true);
    return new Blob([head, ...this.parts], { type: "audio/wav" });
  }
}
