/** What the page asks the service. */

/** A request that failed. `needsKey`: the key is missing or wrong. */
export class Refusal extends Error {
  constructor(message, needsKey = false) {
    super(message);
    this.needsKey = needsKey;
  }
}

export const UNREACHABLE =
  "The service cannot be reached, or has closed the connection. Look whether it runs, then try " +
  "again.";

export class Service {
  #key = ""; // in memory only

  useKey(key) {
    this.#key = key.trim();
  }

  /** The model: {id, streaming}. */
  async model() {
    let answer;
    try {
      answer = await fetch("v1/models", { headers: this.#headers(), cache: "no-store" });
    } catch {
      throw new Refusal(UNREACHABLE);
    }
    const content = await answer.json().catch(() => null);
    if (!answer.ok || !content?.data?.length) throw refusal(answer.status, content);
    return content.data[0];
  }

  /**
   * The transcript of a file, as `writers.js` describes it.
   *
   * onSent gets the share that has been sent, 0 to 1. An AbortSignal ends it with null.
   */
  transcribe(file, model, onSent, signal) {
    const form = new FormData();
    form.append("model", model);
    form.append("response_format", "verbose_json");
    for (const kind of ["word", "segment"]) form.append("timestamp_granularities[]", kind);
    form.append("file", file);
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest(); // fetch does not tell what has been sent
      request.open("POST", "v1/audio/transcriptions");
      for (const [name, value] of Object.entries(this.#headers())) {
        request.setRequestHeader(name, value);
      }
      request.responseType = "json";
      request.upload.onprogress = ({ loaded, total }) => onSent(total ? loaded / total : 1);
      request.onload = () =>
        request.status === 200 && request.response
          ? resolve(transcript(request.response))
          : reject(refusal(request.status, request.response));
      request.onerror = () => reject(new Refusal(UNREACHABLE));
      request.onabort = () => resolve(null);
      signal.addEventListener("abort", () => request.abort());
      request.send(form);
    });
  }

  /** A websocket for samples of a rate. Throws a Refusal for a key that no websocket can carry. */
  listen(model, rate) {
    const address = new URL("v1/listen", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    address.search = new URLSearchParams({
      model,
      encoding: "linear16",
      sample_rate: rate,
      interim_results: true,
    });
    try {
      return new WebSocket(address, this.#key ? ["token", this.#key] : []);
    } catch {
      throw new Refusal(
        "Browsers cannot send this key with a stream: it may have only letters, digits and " +
          "!#$%&'*+-.^_`|~. Files can be recognised.",
      );
    }
  }

  /** Why a stream was not accepted: browsers do not say. */
  async whyNoStream() {
    try {
      await this.model();
    } catch (error) {
      return error;
    }
    return new Refusal("The service has no room for one more stream. Try again later.");
  }

  #headers() {
    return this.#key ? { Authorization: `Bearer ${this.#key}` } : {};
  }
}

function refusal(status, content) {
  if (status === 401) return new Refusal("The key is wrong.", true);
  const reason = content?.error?.message ?? `The service answered with status ${status || "none"}.`;
  return new Refusal(reason[0].toUpperCase() + reason.slice(1));
}

/** An answer in `verbose_json`: each segment gets its words. */
function transcript({ duration, segments, words }) {
  let next = 0;
  return {
    duration,
    segments: segments.map(({ text, avg_logprob: log }) => {
      const count = text.split(" ").length;
      next += count;
      return {
        words: words.slice(next - count, next),
        probability: Math.round(1e4 * Math.exp(log)) / 1e4,
      };
    }),
  };
}
