"use strict";

// One image: its photo, its caption word by word, its scores, what people said.

const WARM = [255, 122, 0];
const COOL = [0, 130, 255];

/** Everything on the page is made here: strings become text, never markup. */
function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function card(entry, query, measure) {
  return element("li", { className: "card" },
    photo(entry),
    caption(entry, query),
    ...references(entry, query),
    ...otherCaptions(entry, query),
    scores(entry, measure),
    element("p", { className: "name" }, entry.name));
}

function photo(entry) {
  const readout = element("output", { className: "readout", hidden: true });
  if (!entry.photo) {
    const problem = `This image could not be read: ${entry.problem}`;
    return element("div", { className: "photo problem" }, element("p", {}, problem), readout);
  }
  const image = element("img", { alt: `Photo ${entry.name}`, src: `data:image/webp;base64,${entry.photo}` });
  const frame = element("div", { className: "frame" }, image, element("canvas", { hidden: true }));
  const ratio = entry.width / entry.height;
  frame.style.aspectRatio = ratio;
  frame.style.width = `${Math.min(1, ratio / (4 / 3)) * 100}%`; // as large as its 4:3 place lets it be
  return element("div", { className: "photo" }, frame, readout);
}

function caption(entry, query) {
  const line = element("p", { className: "caption" });
  for (const [text, sure, columns, heat] of entry.words) {
    const word = element("span", { className: heat ? "word hot" : "word" }, marked(text, query));
    word.style.setProperty("--sure", sure ?? 0);
    word.role = "button";
    word.ariaLabel = sure === null ? text : `${text}, ${percent(sure)}`;
    const show = () => pointAt(word, text, sure, columns, heat);
    for (const event of ["pointerenter", "focus", "click"]) word.addEventListener(event, show);
    for (const event of ["pointerleave", "blur"]) word.addEventListener(event, () => pointAway(word));
    line.append(word, " ");
  }
  if (!entry.words.length) line.append(element("em", {}, "(no words)"));
  rove(line);
  return line;
}

/** Show how sure the model was of the word, and on the photo what the word hangs on. */
function pointAt(word, text, sure, columns, heat) {
  const place = word.closest(".card").querySelector(".photo");
  const readout = place.querySelector(".readout");
  readout.textContent = sure === null ? text : `${text}  ${percent(sure)}`;
  readout.hidden = sure === null && !heat;
  const canvas = place.querySelector("canvas");
  if (heat && canvas) paint(canvas, columns, heat);
  if (canvas) canvas.hidden = !heat;
}

function pointAway(word) {
  for (const shown of word.closest(".card").querySelectorAll("canvas, .readout")) shown.hidden = true;
}

/** A pixel for each part of the photo; the browser smooths between them. */
function paint(canvas, columns, heat) {
  const cells = Int8Array.from(atob(heat), (byte) => byte.charCodeAt(0));
  canvas.width = columns;
  canvas.height = cells.length / columns;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  cells.forEach((cell, index) => {
    image.data.set([...(cell < 0 ? COOL : WARM), Math.abs(cell) * 1.5], 4 * index);
  });
  context.putImageData(image, 0, 0);
}

function scores(entry, measure) {
  const list = element("dl", { className: "scores" });
  for (const [name, value] of Object.entries(entry.measures)) {
    list.append(element("div", { className: name === measure ? "chosen" : "" },
      element("dt", {}, name), element("dd", {}, decimal(value))));
  }
  return list;
}

function references(entry, query) {
  if (!entry.references.length) return [];
  const items = entry.references.map((text) => element("li", {}, marked(text, query)));
  return [element("div", {}, element("h3", {}, "People say"), element("ul", {}, ...items))];
}

function otherCaptions(entry, query) {
  if (!entry.others.length) return [];
  const items = entry.others.map(([text, logProb]) =>
    element("li", {}, marked(text, query), " ", element("small", {}, decimal(logProb))));
  const many = entry.others.length === 1 ? "1 other caption" : `${entry.others.length} other captions`;
  return [element("details", {}, element("summary", {}, many), element("ol", {}, ...items))];
}

/** The text with the words marked that are looked for. */
function marked(text, query) {
  const parts = document.createDocumentFragment();
  for (const part of text.split(WORDS)) {
    const found = query.some((start) => part.toLowerCase().startsWith(start));
    parts.append(found ? element("mark", {}, part) : part);
  }
  return parts;
}

const decimal = (value) => value?.toFixed(1) ?? "–"; // null: no finite number
const percent = (share) => (share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`);

/** Make a row one stop of the Tab key; the arrow keys move within it. */
function rove(row) {
  const stops = [...row.children];
  stops.forEach((stop, index) => { stop.tabIndex = index ? -1 : 0; });
  row.addEventListener("keydown", (event) => {
    const next = stops[stops.indexOf(event.target) + { ArrowRight: 1, ArrowLeft: -1 }[event.key]];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
