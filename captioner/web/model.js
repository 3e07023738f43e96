// The captioner in JavaScript: an exported model folder, run by onnxruntime-web on one thread.

import { decode } from "./decode.js";
import { preprocess } from "./resize.js";
import { buildRules } from "./rules.js";
import { beamSearch } from "./search.js";
import { tokenize, Vocabulary } from "./text.js";

const WEIGHTS = "model/model.safetensors"; // both graphs read their weights from it

/** A model that has been loaded: see `Model.load`. */
export class Model {
  /** `files` are the parsed config.json, graphs.json and vocab.json. */
  constructor(ort, encoder, step, { config, graphs, vocabulary }) {
    this.ort = ort;
    this.encoder = encoder;
    this.stepSession = step;
    this.config = config;
    this.graphs = graphs;
    this.vocabulary = new Vocabulary(vocabulary.words, graphs.unspaced);
  }

  /**
   * Resolve to the model of a site.
   *
   * @param base the URL of the site, with a slash at its end
   * @param onProgress is called with (bytes so far, bytes in all)
   */
  static async load(base, onProgress) {
    const site = await (await get(new URL("site.json", base))).json();
    const names = Object.keys(site.files);
    const total = names.reduce((sum, name) => sum + site.files[name], 0);
    let loaded = 0;
    const count = (bytes) => onProgress(loaded += bytes, total);
    const others = new AbortController(); // where one fails, the others need not go on
    const fetched = names.map((name) =>
      download(new URL(name, base), site.files[name], count, others.signal));
    const contents = await Promise.all(fetched).catch((error) => {
      others.abort();
      throw error;
    });
    const files = Object.fromEntries(names.map((name, index) => [name, contents[index]]));
    const json = (name) => JSON.parse(new TextDecoder().decode(files[name]));
    const graphs = json("model/graphs.json");
    await checkWeights(files[WEIGHTS], graphs.weights);
    const ort = await import(new URL("ort/ort.wasm.min.mjs", base));
    ort.env.wasm.numThreads = 1; // more need the headers COOP and COEP
    ort.env.wasm.wasmBinary = files["ort/ort-wasm-simd-threaded.wasm"];
    ort.env.wasm.wasmPaths = { mjs: new URL("ort/ort-wasm-simd-threaded.mjs", base).href };
    const open = (name) => ort.InferenceSession.create(files[name], {
      externalData: [{ path: "model.safetensors", data: files[WEIGHTS] }],
    });
    const encoder = await open("model/encoder.onnx");
    const step = await open("model/step.onnx");
    const config = json("model/config.json");
    const vocabulary = json("model/vocab.json");
    return new Model(ort, encoder, step, { config, graphs, vocabulary });
  }

  /** Return what decoding understands: the model's own values, and the JSON schema of each. */
  get settings() {
    const { decoding: schema } = this.graphs;
    const values = Object.keys(schema).map((name) =>
      [name, this.config.decoding[name] ?? schema[name].default]);
    const calibrated = this.config.confidence !== null;
    return { schema, values: Object.fromEntries(values), calibrated };
  }

  /** Throw an Error that names the setting if the model cannot decode with these settings. */
  check(settings) {
    this.constraints(settings);
  }

  /** Return the token ids that captions start with, and those that they may not hold. */
  constraints({ prefix: start, forbid, min_length: least, max_length: most }) {
    const prefix = this.vocabulary.idsOf(tokenize(start), "prefix");
    const words = forbid.flatMap(tokenize);
    const forbidden = words.flatMap((word) => this.vocabulary.ids.get(word) ?? []);
    const both = words.find((word) => prefix.includes(this.vocabulary.ids.get(word)));
    if (both) throw new Error(`“${both}” is in prefix and in forbid: remove it from one`);
    if (prefix.length > most) throw new Error("prefix has more words than max_length: raise it");
    if (least > most) throw new Error(`min_length (${least}) is above max_length (${most})`);
    return { prefix, forbidden };
  }

  /** Resolve to {captions, thumbnail} of an image file: see engine.js. */
  async caption(file, settings) {
    const constraints = this.constraints(settings);
    const { pixels, thumbnail } = await decode(file);
    const state = await this.encode(preprocess(pixels, this.config.encoder));
    const applyRules = buildRules(settings, { ...constraints, graphs: this.graphs });
    const step = (...args) => this.step(...args);
    const found = await beamSearch(step, state, settings, applyRules);
    return { captions: found.map((one) => this.toCaption(one, settings)), thumbnail };
  }

  /** Resolve to the initial state of pixels (3, S, S): parts of one row each. */
  async encode(pixels) {
    const size = this.config.encoder.image_size;
    const feeds = { pixels: new this.ort.Tensor("uint8", pixels, [1, 3, size, size]) };
    const outputs = await this.encoder.run(feeds);
    return this.encoder.outputNames.map((name) => outputs[name]);
  }

  /** The step function of search.js. Of the state, only the first parts are updated. */
  async step(state, rows, tokens) {
    const { Tensor } = this.ort;
    const ids = BigInt64Array.from(tokens, BigInt);
    const feeds = { token_ids: new Tensor("int64", ids, [tokens.length]) };
    const selected = state.map((part) => selectRows(Tensor, part, rows));
    selected.forEach((part, index) => { feeds[`state_${index}`] = part; });
    const outputs = await this.stepSession.run(feeds);
    const updated = this.graphs.updated_parts;
    const next = selected.map((part, index) => (index < updated ? outputs[`next_${index}`] : part));
    const { data, dims } = outputs.log_probs; // (N, V)
    const logProbs = tokens.map((_, row) => data.subarray(row * dims[1], (row + 1) * dims[1]));
    return { logProbs, state: next };
  }

  toCaption({ tokens, logProbs, logProb }, { min_confidence: least }) {
    const { confidence: calibration } = this.config;
    const words = tokens.map((id, index) => ({
      text: this.vocabulary.words[id],
      logProb: logProbs[index],
      confidence: calibration && Math.exp(logProbs[index] / calibration.temperature),
    }));
    const sum = words.reduce((total, word) => total + word.confidence, 0);
    const confidence = calibration && words.length ? sum / words.length : null;
    const threshold = calibration?.threshold ?? null;
    return {
      text: this.vocabulary.detokenize(tokens),
      words,
      logProb,
      confidence,
      sure: threshold === null ? null : (confidence ?? 0) >= threshold,
      abstained: least > 0 && (confidence ?? 0) < least,
    };
  }
}

function selectRows(Tensor, { type, data, dims }, rows) {
  const [count, ...rest] = dims;
  if (rows.length === count && rows.every((row, index) => row === index)) {
    return new Tensor(type, data, dims);
  }
  const size = data.length / count;
  const selected = new data.constructor(rows.length * size);
  rows.forEach((row, index) => {
    selected.set(data.subarray(row * size, (row + 1) * size), index * size);
  });
  return new Tensor(type, selected, [rows.length, ...rest]);
}

/** Resolve to the response for a URL, asking the server whether a stored copy is still the same. */
async function get(url, signal) {
  let response;
  try {
    response = await fetch(url, { cache: "no-cache", signal });
  } catch {
    throw new Error(`${url.pathname} cannot be fetched: check the connection`);
  }
  if (!response.ok) {
    throw new Error(`${url.pathname} is missing (${response.status}): build the site again`);
  }
  return response;
}

/** Resolve to the bytes of a file; `count` is called with the number of bytes that have come. */
async function download(url, size, count, signal) {
  const reader = (await get(url, signal)).body.getReader();
  const bytes = new Uint8Array(size);
  let offset = 0;
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw new Error(`${url.pathname}: the connection broke off after ${offset} bytes`);
    });
    if (done) break;
    if (offset + value.length > size) break;
    bytes.set(value, offset);
    offset += value.length;
    count(value.length);
  }
  if (offset !== size) throw new Error(`${url.pathname} has another size than in site.json`);
  return bytes;
}

/** Throw an Error if weights belong to other graphs. Without https there is no SHA-256. */
async function checkWeights(weights, expected) {
  if (!globalThis.crypto?.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", weights));
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== expected) throw new Error(`${WEIGHTS} is corrupt, or of another model: build again`);
}
