// The engine of the page that `captioner serve` shows: the service captions. See engine.js.

import { makeThumbnail } from "./decode.js";

const TRIES = 20; // of a request while the queue of the service is full
const TOKEN = "captioner-token"; // its name in sessionStorage
const NAME = "image"; // of each image in a request: the card shows the name of its file
const PARALLEL = 4; // requests at a time, which the service can compute in one batch

const titleOf = (name) => name.split("_").map((word) => word[0].toUpperCase() + word.slice(1))
  .join(" ");

/** Captions by a service. Of its errors, those to try later have `retryAfter`, in seconds. */
export class HttpEngine {
  place = `Your images are sent to this server (${location.host}), which captions them and `
    + "stores none.";

  parallel = PARALLEL;
  explains = false; // until the model is known
  cropped;
  #defaults = {};
  #token = readToken();

  /** `site` is what the service's site.json holds. */
  constructor({ cropped }) {
    this.cropped = cropped;
  }

  setToken(token) {
    this.#token = token;
    try {
      sessionStorage.setItem(TOKEN, token);
    } catch { /* storage is blocked: the token is forgotten when the page is closed */ }
  }

  async load(_, onWait) {
    const model = await this.#waitFor("v1/model", onWait);
    const openapi = await this.#waitFor("openapi.json", onWait);
    const { parameters } = openapi.paths["/v1/caption"].post;
    const known = parameters.filter(({ name }) => name in model.decoding);
    const schema = Object.fromEntries(known.map(({ name, description, schema: rules }) =>
      [name, { ...rules, title: titleOf(name), description }]));
    this.#defaults = Object.fromEntries(known.map(({ name }) => [name, model.decoding[name]]));
    this.explains = model.explains;
    // The service has limits of its own; beyond this one, JavaScript has no exact whole numbers.
    const largest = Number.MAX_SAFE_INTEGER;
    return { schema, values: this.#defaults, calibrated: model.calibrated, largest };
  }

  /** Send no image: the service judges the settings before it looks at what it is to caption. */
  async check(settings) {
    try {
      await this.#caption(new Blob([]), settings);
    } catch (error) {
      if (error.code === "bad_options") throw error;
    }
  }

  async caption(file, settings, { signal, onWait }) {
    const result = await whenNotBusy(() => this.#caption(file, settings, { signal }),
      { tries: TRIES, signal, onWait, statuses: [429] });
    const captions = (result.captions ?? [result]).map(toCaption);
    return { captions, thumbnail: await picture(file), values: { ...result, image: file.name } };
  }

  /** A frame that the service is too busy for is not sent again: a newer one will be. */
  async captionFrame(file, settings, signal) {
    return toCaption(await this.#caption(file, settings, { signal }));
  }

  async explain(file, settings) {
    const { words } = await this.#caption(file, settings, { explain: true });
    return words.map(({ word, heat }) => ({ text: word, heat: heat ?? null }));
  }

  /** Resolve to the JSON of a path, once the service is ready. */
  #waitFor(path, onWait) {
    const statuses = [429, 503];
    return whenNotBusy(() => this.#fetch(path, {}), { tries: Infinity, statuses, onWait });
  }

  async #caption(file, settings, { explain = false, signal } = {}) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(settings)) {
      if (JSON.stringify(value) === JSON.stringify(this.#defaults[name])) continue;
      const values = value?.length === 0 ? [""] : [value].flat(); // an empty list has no other form
      for (const each of values) query.append(name, each);
    }
    if (explain) query.set("explain", "true");
    const body = new FormData(); // a body that is the file alone could look like JSON
    body.append("file", file, NAME);
    const options = { method: "POST", body, signal };
    return (await this.#fetch(`v1/caption?${query}`, options)).results[0];
  }

  /** Resolve to the JSON of a path; reject with the words of the service. */
  async #fetch(path, options) {
    let response;
    try {
      response = await fetch(new URL(path, import.meta.url), {
        cache: "no-store",
        headers: this.#token ? { Authorization: `Bearer ${this.#token}` } : {},
        ...options,
      });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      const text = "the server does not answer, or the file was moved: check both, and try again";
      throw Object.assign(new Error(text), { canTryAgain: true });
    }
    if (response.ok) return response.json();
    throw await toError(response);
  }
}

/** Resolve to what `send` does; while the service is busy, wait as long as it asks for. */
async function whenNotBusy(send, { tries, statuses, signal, onWait }) {
  for (let left = tries; ; left -= 1) {
    try {
      return await send();
    } catch (error) {
      if (!statuses.includes(error.status) || !error.retryAfter || left <= 1) throw error;
      onWait(`${error.message}: the next try is in ${error.retryAfter} s`);
      await pause(error.retryAfter, signal);
    }
  }
}

/** Resolve after some seconds; reject at once if the signal aborts. */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

/** Resolve to the error of an answer. A proxy before the service may answer without JSON. */
async function toError(response) {
  const { error } = await response.json().catch(() => ({}));
  const text = error?.message ?? `the server answers with the status ${response.status}`;
  return Object.assign(new Error(text.replace(`${NAME}: `, "")), {
    status: response.status,
    code: error?.code,
    needsToken: response.status === 401,
    canTryAgain: response.status === 429 || response.status >= 500,
    retryAfter: Number(response.headers.get("Retry-After")) || null,
  });
}

function toCaption({ caption, log_prob: logProb, confidence = null, sure = null, words }) {
  return {
    text: caption,
    words: words.map((word) =>
      ({ text: word.word, logProb: word.log_prob, confidence: word.confidence ?? null })),
    logProb,
    confidence,
    sure,
    abstained: caption === null,
  };
}

/** Resolve to a small picture of a file, or null where only the service can read it. */
async function picture(file) {
  try {
    const bitmap = await createImageBitmap(file);
    try {
      return await makeThumbnail(bitmap);
    } finally {
      bitmap.close();
    }
  } catch {
    return null;
  }
}

function readToken() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}
