// The page: images come in, wait for their turn, and get a card each. See engine.js for the engine.

import { connectCamera } from "./camera.js";
import { Card } from "./card.js";
import { announce, element, get } from "./elements.js";
import { BrowserEngine } from "./engine.js";
import { HttpEngine } from "./http_engine.js";
import { Settings } from "./settings.js";

const MB = 1_000_000;

const ENGINES = { browser: BrowserEngine, http: HttpEngine };

let engine = null; // once site.json is read
const images = []; // all that are on the page, the newest first: see `add`
let settings = null; // once the model is loaded
let working = 0; // images that are captioned now
let needsToken = false; // the server has refused a request

const showStatus = (text) => { get("status").textContent = text; };
const notify = (text) => { get("notice").textContent = text; };
const countOf = (count) => `${count} image${count === 1 ? "" : "s"}`;

async function load() {
  get("load-again").hidden = true;
  get("progress").hidden = false;
  try {
    engine ??= await openEngine();
    const choices = await engine.load(showProgress, showStatus);
    showTokenForm(false);
    settings ??= new Settings(choices, (values) => engine.check(values), () =>
      captionAgain(images.filter((image) => !image.failed)));
    showStatus("Ready");
    document.body.dataset.ready = "true";
  } catch (error) {
    if (error.needsToken) showTokenForm(true);
    else {
      showStatus(`The model could not be loaded: ${error.message}`);
      get("load-again").hidden = false;
    }
  }
  get("progress").hidden = true;
  work();
}

/** Resolve to the engine that site.json names, and show what else the site has. */
async function openEngine() {
  const response = await fetch("site.json", { cache: "no-cache" }).catch(() => null);
  if (!response?.ok) throw new Error("site.json cannot be fetched: check the connection");
  const site = await response.json();
  showExamples(site.examples);
  const opened = new ENGINES[site.engine](site);
  get("place").textContent = opened.place;
  return opened;
}

/** Ask for the token of the server, or no more. */
function showTokenForm(isShown) {
  needsToken = isShown;
  get("token-form").hidden = !isShown;
  if (!isShown) return;
  showStatus(get("token").value
    ? "This server refuses the token" : "This server asks for a token");
  get("token").focus();
}

function showProgress(loaded, total) {
  Object.assign(get("progress"), { value: loaded, max: total });
  const text = loaded < total
    ? `Loading the model: ${Math.floor(loaded / MB)} of ${Math.ceil(total / MB)} MB`
    : "Starting the model";
  showStatus(text);
}

/** Put images on the page, above the others. */
function add(files) {
  notify("");
  const added = [...files].map((file) => {
    // `values`: its line of JSONL; `attempt`: aborts what is captioned now
    const image = { file, done: false, failed: false, values: null, attempt: null };
    image.card = new Card(file.name || "image", () => remove(image));
    image.card.wait(settings ? "Waiting" : "Waiting for the model");
    return image;
  });
  images.unshift(...added);
  get("cards").prepend(...added.map((image) => image.card.node));
  if (added.length > 1) announce(`${countOf(added.length)} added`);
  showCount();
  work();
}

function remove(image) {
  const index = images.indexOf(image);
  images.splice(index, 1);
  image.attempt?.abort();
  image.card.node.remove();
  showCount();
  const next = images[Math.min(index, images.length - 1)];
  if (next) next.card.remove.focus();
  else get("choose").focus();
}

function showCount() {
  get("results").hidden = images.length === 0;
  get("clear").hidden = images.length < 2;
  get("download").hidden = !images.some((image) => image.values);
}

/** Caption the images that wait, as many at a time as the engine does. */
function work() {
  if (!settings || needsToken) return;
  while (working < engine.parallel) {
    const image = images.find((each) => !each.done);
    if (!image) break;
    working += 1;
    caption(image).finally(() => {
      working -= 1;
      work();
    });
  }
  const left = working + images.filter((each) => !each.done).length;
  showStatus(left ? `Captioning, ${countOf(left)} to do` : "Ready");
}

/** Caption an image; new settings may make it wait again meanwhile. */
async function caption(image) {
  const { file, card } = image;
  const { values } = settings;
  image.done = true;
  image.attempt = new AbortController();
  const { signal } = image.attempt;
  card.work();
  try {
    const onWait = (text) => card.wait(text);
    const result = await engine.caption(file, values, { signal, onWait });
    if (signal.aborted) return;
    image.values = result.values ?? null;
    const explain = () => engine.explain(file, values);
    card.show(result, engine.explains ? { explain, cropped: engine.cropped } : null);
  } catch (error) {
    if (signal.aborted) return;
    if (error.needsToken) {
      image.done = false;
      card.wait("Waiting for a token");
      showTokenForm(true);
      return;
    }
    image.failed = true;
    image.values = null;
    card.fail(error.message, error.canTryAgain ? () => captionAgain([image]) : null);
  }
  showCount();
}

/** Caption images again. */
function captionAgain(chosen) {
  for (const image of chosen) {
    image.attempt?.abort();
    Object.assign(image, { done: false, failed: false });
    image.card.wait("Waiting");
  }
  work();
}

/** Return the function that captions frames of the camera, or null: see camera.js. */
function frameCaptioner() {
  if (!settings || !engine.captionFrame) return null;
  return async (file, signal) => {
    const { text } = await engine.captionFrame(file, settings.values, signal);
    return text ?? "No caption is as confident as min_confidence asks for.";
  };
}

/** Download the captions as lines of JSON, in the order of the page. */
function download() {
  const lines = images.filter((image) => image.values)
    .map(({ values }) => `${JSON.stringify(values)}\n`);
  const href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  element("a", { href, download: "captions.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

function connectInputs() {
  const input = get("files");
  get("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    add(input.files);
    input.value = ""; // the same file can be chosen again
  });
  document.addEventListener("paste", ({ clipboardData: { files }, target }) => {
    if (files.length) add(files);
    else if (!target.closest?.("input")) {
      notify("Paste: the clipboard holds no image: copy one first");
    }
  });
  const mark = (isDragging) => document.body.classList.toggle("dragging", isDragging);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => mark(event.relatedTarget !== null));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    const { files } = event.dataTransfer;
    if (files.length) add(files);
    else notify("Drop: that is no file: save the image first, and drop the saved file");
  });
  get("load-again").addEventListener("click", load);
  get("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    engine.setToken(get("token").value.trim());
    load();
  });
  get("download").addEventListener("click", download);
  get("clear").addEventListener("click", () => {
    images.splice(0).forEach((image) => {
      image.attempt?.abort();
      image.card.node.remove();
    });
    showCount();
    get("choose").focus();
  });
  connectCamera((file) => add([file]), notify, frameCaptioner);
}

/** Show the example images that the site lists. */
function showExamples(examples) {
  get("examples").hidden = examples.length === 0;
  get("examples").querySelector("ul").append(...examples.map((name) => {
    const url = `examples/${encodeURIComponent(name)}`;
    const picture = element("img", { src: url, alt: `Caption the example ${name}` });
    const button = element("button", { type: "button" }, picture);
    button.addEventListener("click", async () => {
      const response = await fetch(url);
      if (response.ok) add([new File([await response.blob()], name)]);
      else notify(`${name} is missing on the server: build the site again`);
    });
    return element("li", {}, button);
  }));
}

connectInputs();
load();
