/** The part of the microphone that runs beside the page: 16-bit samples, 100 ms at a time. */

class Chunks extends AudioWorkletProcessor {
  constructor() {
    super();
    this.chunk = new Int16Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.peak = 0;
    this.ended = false;
    this.port.onmessage = () => {
      this.ended = true;
      this.post();
      this.port.postMessage(null); // that was the last one
    };
  }

  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.peak = Math.max(this.peak, Math.abs(sample));
      this.chunk[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.filled === this.chunk.length) this.post();
    }
    return !this.ended;
  }

  post() {
    const samples = this.chunk.slice(0, this.filled);
    this.port.postMessage({ samples, peak: this.peak }, [samples.buffer]);
    this.filled = this.peak = 0;
  }
}

registerProcessor("chunks", Chunks);
