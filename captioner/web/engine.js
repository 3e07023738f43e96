// The engine of the page: what captions images. This one does so in the browser, that of
// http_engine.js asks a service; site.json says which. The page knows this interface alone:
//
//   place     where images go, for the reader of the page
//   parallel  how many images it captions at a time
//   load(onProgress, onWait)
//       resolves to {schema, values, calibrated, largest}: the JSON schema of each setting of
//       decoding, its value for this model, whether there are confidences, and the largest whole
//       number of a setting, or undefined; meanwhile it calls onProgress(bytes so far, in all), or
//       onWait(text) with what it waits for
//   check(settings)
//       resolves, or rejects with what is wrong with the settings
//   caption(file, settings, {signal, onWait})
//       resolves to {captions, thumbnail, values}: the best caption first, each
//       {text, words, logProb, confidence, sure, abstained}, where words are
//       [{text, logProb, confidence}]; a small picture as a Blob, or null; and what a line of JSON
//       to download holds, or undefined
//
// Where it can, it also has
//
//   explains, cropped, explain(file, settings)
//       whether there are heat maps, and whether they cover the center square alone; resolves to
//       the words of the best caption, [{text, heat}], where heat is rows of numbers, or null
//   captionFrame(file, settings, signal)
//       resolves to the best caption of a frame of the camera, or rejects at once
//   setToken(token)
//       what the server asks for
//
// Each rejects with an Error whose message is the reason and the way out. It may have `needsToken`,
// `canTryAgain`, and `retryAfter` in seconds.

const STOPPED = "the engine stopped: reload the page";

/** Captions in the browser: onnxruntime-web in a worker, so the page stays responsive. */
export class BrowserEngine {
  place = "Your images stay on this device: this browser captions them, and nothing is uploaded.";

  parallel = 1;

  #worker = null;
  #waiting = new Map(); // id of a call -> its promise
  #lastId = 0;
  #onProgress;

  /** Return what this browser lacks, or null. */
  static missing() {
    if (typeof WebAssembly !== "object") {
      return "WebAssembly is switched off or missing in this browser: use a recent version of "
        + "Chrome, Edge, Firefox or Safari, without lockdown mode";
    }
    if (typeof OffscreenCanvas !== "function" || typeof createImageBitmap !== "function") {
      return "This browser is too old: use a recent version of Chrome, Edge, Firefox or Safari";
    }
    return null;
  }

  async load(onProgress) {
    const missing = BrowserEngine.missing();
    if (missing) throw new Error(missing);
    this.#worker?.terminate();
    this.#onProgress = onProgress;
    this.#worker = startWorker(new URL("worker.js", import.meta.url));
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(STOPPED));
    };
    return this.#call("load", new URL(".", import.meta.url).href);
  }

  check(settings) {
    return this.#call("check", settings);
  }

  caption(file, settings) {
    return this.#call("caption", file, settings);
  }

  #call(call, ...args) {
    return new Promise((resolve, reject) => {
      if (!this.#worker) throw new Error(STOPPED);
      const id = ++this.#lastId;
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, call, args });
    });
  }

  #receive({ progress, id, result, error }) {
    if (progress) return this.#onProgress(...progress);
    const { resolve, reject } = this.#waiting.get(id);
    this.#waiting.delete(id);
    return error === undefined ? resolve(result) : reject(new Error(error));
  }

  #fail(error) {
    this.#worker.terminate();
    this.#worker = null;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

/**
 * Return a worker that obeys the Content-Security-Policy of this page.
 *
 * A worker from a URL has the policy of its own response, so it could connect to any host. One from
 * a blob has that of the page that made it.
 */
function startWorker(url) {
  const blob = new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" });
  const source = URL.createObjectURL(blob);
  const worker = new Worker(source, { type: "module" });
  worker.addEventListener("message", () => URL.revokeObjectURL(source), { once: true });
  return worker;
}
