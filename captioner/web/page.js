// The page: images come in, wait for their turn, and get a card each. See engine.js for the engine.

import { connectCamera } from "./camera.js";
import { Card } from "./card.js";
import { announce, element, get } from "./elements.js";
import { BrowserEngine } from "./engine.js";
import { Settings } from "./settings.js";

const MB = 1_000_000;

const engine = new BrowserEngine();
const images = []; // {file, card, done, failed}: all that are on the page, the newest first
let settings = null; // once the model is loaded
let isWorking = false;

const notify = (text) => { get("notice").textContent = text; };
const countOf = (count) => `${count} image${count === 1 ? "" : "s"}`;

async function load() {
  get("load-again").hidden = true;
  get("progress").hidden = false;
  try {
    const choices = await engine.load(showProgress);
    settings ??= new Settings(choices, (values) => engine.check(values), captionAgain);
    get("status").textContent = "Ready";
    document.body.dataset.ready = "true";
  } catch (error) {
    get("status").textContent = `The model could not be loaded: ${error.message}`;
    get("load-again").hidden = false;
  }
  get("progress").hidden = true;
  work();
}

function showProgress(loaded, total) {
  Object.assign(get("progress"), { value: loaded, max: total });
  const text = loaded < total
    ? `Loading the model: ${Math.floor(loaded / MB)} of ${Math.ceil(total / MB)} MB`
    : "Starting the model";
  get("status").textContent = text;
}

/** Put images on the page, above the others. */
function add(files) {
  notify("");
  const added = [...files].map((file) => {
    const image = { file, done: false, failed: false };
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
  image.card.node.remove();
  showCount();
  const next = images[Math.min(index, images.length - 1)];
  if (next) next.card.remove.focus();
  else get("choose").focus();
}

function showCount() {
  get("results").hidden = images.length === 0;
  get("clear").hidden = images.length < 2;
}

/** Caption the images that wait, one by one. */
async function work() {
  if (isWorking || !settings) return;
  isWorking = true;
  for (let image; (image = images.find((each) => !each.done));) {
    const waiting = images.filter((each) => !each.done).length;
    get("status").textContent = `Captioning, ${countOf(waiting)} to do`;
    image.done = true; // new settings may make it wait again, even while it is captioned
    image.card.work();
    try {
      image.card.show(await engine.caption(image.file, settings.values));
    } catch (error) {
      image.failed = true;
      image.card.fail(error.message);
    }
  }
  get("status").textContent = "Ready";
  isWorking = false;
}

/** Caption all images with new settings. */
function captionAgain() {
  for (const image of images.filter((each) => !each.failed)) image.done = false;
  work();
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
  get("clear").addEventListener("click", () => {
    images.splice(0).forEach((image) => image.card.node.remove());
    showCount();
    get("choose").focus();
  });
  connectCamera((file) => add([file]), notify);
}

/** Show the example images that the site lists. */
async function showExamples() {
  const { examples } = await (await fetch("site.json", { cache: "no-cache" })).json();
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

get("place").textContent = engine.place;
connectInputs();
load();
showExamples().catch(() => {}); // the engine reports a site that cannot be read
