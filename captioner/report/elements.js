"use strict";

// What all pages use: reading the data, making elements, numbers, and the keyboard.

const get = (id) => document.getElementById(id);
const read = (id) => JSON.parse(get(id).textContent);

/** Create an element. All elements of the page are made here: strings become text, never markup. */
function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** The terms and descriptions of a description list. */
function definitions(values) {
  return Object.entries(values).map(([name, text]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, text)));
}

const decimal = (value) => value?.toFixed(1) ?? "–"; // null: not a finite number
const percent = (share) => (share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`);

/** Make a row one stop of the Tab key; the arrow keys move within the row. */
function addArrowKeys(row) {
  const stops = [...row.children];
  stops.forEach((stop, index) => { stop.tabIndex = index ? -1 : 0; });
  row.addEventListener("keydown", (event) => {
    const offset = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = stops[stops.indexOf(event.target) + offset];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
