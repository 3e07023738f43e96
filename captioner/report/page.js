// The search, the filter and the order of the images. The form holds the state of the page; `update`
// shows the images again after each change.

// A word, or a character of a script without spaces.
const UNSPACED = ["Han", "Hira", "Kana", "Thai", "Laoo", "Khmr", "Mymr"]
  .map((script) => `\\p{sc=${script}}`).join("");
const OTHER = `(?:(?![${UNSPACED}])[\\p{L}\\p{M}\\p{N}'’-])+`;
const WORDS = new RegExp(`([${UNSPACED}]\\p{M}*|${OTHER})`, "u");
const PAGE = 24;

const wordsOf = (text) => text.toLowerCase().split(WORDS).filter((part) => WORDS.test(part));
const textOf = (entry) => entry.words
  .map(([text], index) => (entry.joined.includes(index) ? text : ` ${text}`)).join("");
const images = (count) => `${count.toLocaleString("en")} image${count === 1 ? "" : "s"}`;

const report = read("report");
const entries = read("entries");
const form = document.forms.choices;
let showHistogram;
let queue = [];

/** What each choice of where to search requires of the matches in the parts of an entry. */
const CONDITIONS = {
  caption: ({ caption }) => caption,
  references: ({ references }) => references,
  either: ({ caption, references }) => caption || references,
  missed: ({ caption, references }) => references && !caption,
  invented: ({ caption, references }) => caption && !references,
  name: ({ name }) => name,
};

/** Whether each word of the query is the beginning of a word in the chosen parts of the entry. */
function matches(entry, query, where) {
  if (!query.length) return true;
  entry.parts ??= {
    caption: wordsOf(textOf(entry)),
    references: entry.references.flatMap(wordsOf),
    name: wordsOf(entry.name),
  };
  const matched = {};
  for (const [part, words] of Object.entries(entry.parts)) {
    matched[part] = query.every((start) => words.some((word) => word.startsWith(start)));
  }
  return CONDITIONS[where](matched);
}

/** The values of one measure, without the entries that have none. */
function valuesOf(selected, measure) {
  return selected.map((entry) => entry.measures[measure] ?? NaN)
    .filter((value) => !Number.isNaN(value));
}

function compare(order, measure) {
  const last = order === "best" ? -Infinity : Infinity; // for entries without a value
  const value = (entry) => entry.measures[measure] ?? last;
  return {
    best: (a, b) => value(b) - value(a) || 0,
    worst: (a, b) => value(a) - value(b) || 0,
    random: (a, b) => a.lot - b.lot,
    name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
  }[order];
}

function update() {
  const choices = Object.fromEntries(new FormData(form));
  const { where, order, measure } = choices;
  const query = wordsOf(choices.query);
  const low = choices.low === "" ? -Infinity : Number(choices.low);
  const high = choices.high === "" ? Infinity : Number(choices.high);
  const unlimited = low === -Infinity && high === Infinity;
  const inRange = (value) => value >= low && value < high;
  const matching = entries.filter((entry) => matches(entry, query, where));
  showHistogram(valuesOf(matching, measure), low, high);
  queue = matching.filter((entry) => unlimited || valuesOf([entry], measure).some(inRange));
  queue.sort(compare(order, measure));
  get("count").textContent = queue.length === entries.length
    ? images(entries.length) : `${queue.length.toLocaleString("en")} of ${images(entries.length)}`;
  get("all").hidden = queue.length === entries.length;
  get("cards").replaceChildren();
  showMore();
}

/** Add the next cards when the end of the list is near. */
function showMore() {
  const [query, measure] = [wordsOf(form.elements.query.value), form.elements.measure.value];
  get("cards").append(...queue.splice(0, PAGE).map((entry) => card(entry, query, measure)));
  get("more").hidden = !queue.length;
  nearEnd.unobserve(get("more")); // observing again reports at once whether the end is still near
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
  for (const part of ["about", "facts"]) get(part).append(...definitions(report[part]));
  drawFigures(report.figures);
  if (!entries.some((entry) => entry.references.length)) {
    for (const where of ["references", "either", "missed", "invented"]) {
      form.elements.where.querySelector(`[value=${where}]`).remove();
    }
  }
  const words = entries.flatMap((entry) => entry.words);
  get("shade").hidden = words.every(([, confidence]) => confidence === null);
  for (const method of ["occlusion", "attention"]) {
    get(method).hidden = !entries.some((entry) => entry.explanation === method);
  }
  document.querySelectorAll("#legend .word").forEach((sample, index) => {
    sample.style.setProperty("--confidence", index / 4);
  });
  for (const measure of new Set(entries.flatMap((entry) => Object.keys(entry.measures)))) {
    form.elements.measure.add(new Option(measure));
  }
}

const nearEnd = new IntersectionObserver(([button]) => {
  if (button.isIntersecting && queue.length) showMore();
}, { rootMargin: "800px" });
get("more").addEventListener("click", showMore);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  if (event.target.name === "measure") changeMeasure();
  else update();
});
get("all").addEventListener("click", () => {
  form.elements.query.value = "";
  chooseRange("", "");
});
describe();
changeMeasure();
