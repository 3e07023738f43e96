// What is shown, in which order: the form is the state, and every change of it comes through `update`.

const WORDS = /([\p{L}\p{N}'’-]+)/u;
const PAGE = 24;

const get = (id) => document.getElementById(id);
const read = (id) => JSON.parse(get(id).textContent);
const wordsOf = (text) => text.toLowerCase().split(WORDS).filter((part) => WORDS.test(part));
const images = (count) => `${count.toLocaleString("en")} image${count === 1 ? "" : "s"}`;

const report = read("report");
const entries = read("entries");
const form = document.forms.choices;
let showHistogram;
let queue = [];

const PLACES = {
  caption: ({ said }) => said,
  references: ({ known }) => known,
  either: ({ said, known }) => said || known,
  missed: ({ said, known }) => known && !said,
  invented: ({ said, known }) => said && !known,
  name: ({ named }) => named,
};

/** Whether every word that is looked for begins a word there. */
function holds(entry, query, where) {
  if (!query.length) return true;
  entry.parts ??= {
    said: wordsOf(entry.words.map(([text]) => text).join(" ")),
    known: entry.references.flatMap(wordsOf),
    named: wordsOf(entry.name),
  };
  const found = {};
  for (const [part, words] of Object.entries(entry.parts)) {
    found[part] = query.every((start) => words.some((word) => word.startsWith(start)));
  }
  return PLACES[where](found);
}

/** The values of those that have one. */
function valuesOf(some, measure) {
  return some.map((entry) => entry.measures[measure] ?? NaN).filter((value) => !Number.isNaN(value));
}

function compare(order, measure) {
  const value = (entry) => entry.measures[measure] ?? (order === "best" ? -Infinity : Infinity); // none: last
  return {
    best: (a, b) => value(b) - value(a) || 0,
    worst: (a, b) => value(a) - value(b) || 0,
    random: (a, b) => a.lot - b.lot,
    name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
  }[order];
}

function update() {
  const { query: text, where, low: from, high: below, order, measure } = Object.fromEntries(new FormData(form));
  const query = wordsOf(text);
  const [low, high] = [from === "" ? -Infinity : Number(from), below === "" ? Infinity : Number(below)];
  const all = low === -Infinity && high === Infinity;
  const found = entries.filter((entry) => holds(entry, query, where));
  showHistogram(valuesOf(found, measure), low, high);
  queue = found.filter((entry) => all || valuesOf([entry], measure).some((value) => value >= low && value < high));
  queue.sort(compare(order, measure));
  get("count").textContent = queue.length === entries.length
    ? images(entries.length) : `${queue.length.toLocaleString("en")} of ${images(entries.length)}`;
  get("all").hidden = queue.length === entries.length;
  get("cards").replaceChildren();
  showMore();
}

/** Add the next cards when the end of the list comes near: what is not shown costs nothing. */
function showMore() {
  const [query, measure] = [wordsOf(form.elements.query.value), form.elements.measure.value];
  get("cards").append(...queue.splice(0, PAGE).map((entry) => card(entry, query, measure)));
  get("more").hidden = !queue.length;
  nearEnd.unobserve(get("more")); // observed anew, it reports at once whether that was enough
  nearEnd.observe(get("more"));
}

function changeMeasure() {
  const measure = form.elements.measure.value;
  const values = valuesOf(entries, measure);
  showHistogram = drawHistogram(values, chooseRange);
  chooseRange("", "");
  const sorted = values.sort((a, b) => a - b);
  const mean = sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
  get("spread").textContent = sorted.length
    ? `mean ${mean.toFixed(1)}, median ${sorted[sorted.length >> 1].toFixed(1)}` : "";
  get("range").textContent = measure;
}

function chooseRange(low, high) {
  form.elements.low.value = low;
  form.elements.high.value = high;
  update();
}

function describe() {
  document.title = get("title").textContent = report.title;
  for (const part of ["about", "facts"]) {
    for (const [name, text] of Object.entries(report[part])) {
      get(part).append(element("div", {}, element("dt", {}, name), element("dd", {}, text)));
    }
  }
  drawFigures(report.figures);
  if (!entries.some((entry) => entry.references.length)) {
    for (const place of ["references", "either", "missed", "invented"]) {
      form.elements.where.querySelector(`[value=${place}]`).remove();
    }
  }
  const words = entries.flatMap((entry) => entry.words);
  get("shade").hidden = words.every(([, sure]) => sure === null);
  for (const way of ["occlusion", "attention"]) get(way).hidden = !entries.some((entry) => entry.explanation === way);
  document.querySelectorAll("#legend .word").forEach((sample, index) => sample.style.setProperty("--sure", index / 4));
  for (const measure of new Set(entries.flatMap((entry) => Object.keys(entry.measures)))) {
    form.elements.measure.add(new Option(measure));
  }
}

const nearEnd = new IntersectionObserver(([seen]) => { if (seen.isIntersecting && queue.length) showMore(); },
  { rootMargin: "800px" });
get("more").addEventListener("click", showMore);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => (event.target.name === "measure" ? changeMeasure() : update()));
get("all").addEventListener("click", () => {
  form.elements.query.value = "";
  chooseRange("", "");
});
describe();
changeMeasure();
