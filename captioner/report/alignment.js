// Texts and their translations, with the attention weights as a heat map. The form holds the state
// of the page; `update` shows the texts again after each change.

const PAGE = 20;
const STRONG = 0.75; // the share from which the text of a cell has the color for a dark ground
const SHOWN = 0.1; // the least share that is written in its cell

const report = read("report");
const entries = read("entries");
const form = document.forms.choices;
let queue = [];

const visible = (token) => (token === " " ? "␣" : token);
const texts = (count) => `${count.toLocaleString("en")} text${count === 1 ? "" : "s"}`;

function card(entry) {
  return element("li", { className: "card" },
    element("p", { className: "source", dir: "auto" },
      element("small", { title: "line" }, String(entry.line)), entry.text),
    element("p", { className: "text", dir: "auto" }, entry.translation || "(empty)"),
    ...list("Reference", entry.references.map((text) => [text])),
    ...map(entry),
    ...otherTranslations(entry.others),
    element("dl", { className: "scores" }, ...definitions(measures(entry))));
}

function measures(entry) {
  const known = entry.chrf === null ? {} : { chrF: decimal(entry.chrf) };
  return { ...known, "log-probability": decimal(entry.logProb) };
}

function list(title, items) {
  if (!items.length) return [];
  const rows = items.map((parts) => element("li", { dir: "auto" }, ...parts));
  const heading = items.length === 1 ? title : `${title}s`;
  return [element("div", {}, element("h3", {}, heading), element("ul", {}, ...rows))];
}

function otherTranslations(others) {
  const items = others.map(([text, logProb]) =>
    [text, " ", element("small", { title: "log-probability" }, decimal(logProb))]);
  return list("Other translation", items);
}

/** The heat map with a line that names the cell under the pointer; nothing without attention. */
function map(entry) {
  if (entry.skipped) return [element("p", { className: "skipped" }, entry.skipped)];
  if (!entry.weights) return [];
  const readout = element("output", { className: "readout" });
  const columns = entry.source.map((token) => element("th", { scope: "col", dir: "auto" }, visible(token)));
  const bytes = atob(entry.weights);
  const grid = entry.words.map(([token, probability], row) => {
    const head = element("th", { scope: "row", dir: "auto" }, visible(token));
    head.style.setProperty("--confidence", probability ?? 0);
    const label = `${visible(token)}: probability ${probability === null ? "–" : percent(probability)}`;
    const cells = entry.source.map((source, column) => {
      const weight = bytes.charCodeAt(row * entry.source.length + column) / 255;
      return cell(weight, `${visible(token)} ← ${visible(source)}  ${percent(weight)}`);
    });
    return [addLabel(head, label), ...cells];
  });
  const body = element("tbody", {}, ...grid.map((cells) => element("tr", {}, ...cells)));
  const head = element("thead", {}, element("tr", {}, element("td", { className: "corner" }), ...columns));
  const table = element("table", { role: "grid" }, head, body);
  addReadout(grid, columns, readout);
  addGridKeys(grid);
  return [element("div", { className: "map" }, table), readout];
}

function cell(weight, label) {
  const text = weight >= SHOWN ? String(Math.round(100 * weight)) : "";
  const node = element("td", { className: weight >= STRONG ? "strong" : "" }, text);
  node.style.setProperty("--weight", weight);
  return addLabel(node, label);
}

function addLabel(node, label) {
  node.ariaLabel = label;
  return node;
}

/** Show the label of the cell that is pointed at or focused, and mark its row and its column. */
function addReadout(grid, columns, readout) {
  const each = (visit) => grid.forEach((cells) => cells.forEach((node, index) =>
    visit(node, node.parentNode, columns[index - 1])));
  each((node, row, column) => {
    const mark = (on) => {
      readout.textContent = on ? node.ariaLabel : "";
      row.classList.toggle("at", on);
      column?.classList.toggle("at", on);
    };
    for (const event of ["pointerenter", "focus"]) node.addEventListener(event, () => mark(true));
    for (const event of ["pointerleave", "blur"]) node.addEventListener(event, () => mark(false));
  });
}

/** Make a grid one stop of the Tab key; the arrow keys move within it. */
function addGridKeys(grid) {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  grid.forEach((cells, row) => cells.forEach((node, column) => {
    node.tabIndex = row || column ? -1 : 0;
    node.addEventListener("click", () => node.focus());
    node.addEventListener("keydown", (event) => {
      const [down, right] = moves[event.key] ?? [0, 0];
      const next = grid[row + down]?.[column + right];
      if (!next || next === node) return;
      event.preventDefault();
      node.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }));
}

/** The log-probability of a token on average: that of a text depends on its length too. */
const perToken = (entry) => (entry.logProb ?? -Infinity) / (entry.words.length + 1);

const ORDERS = {
  line: (a, b) => a.line - b.line,
  unlikely: (a, b) => perToken(a) - perToken(b),
  worst: (a, b) => a.chrf - b.chrf,
  best: (a, b) => b.chrf - a.chrf,
};

function update() {
  const query = form.elements.query.value.trim().toLowerCase();
  const parts = (entry) => [entry.text, entry.translation, ...entry.references];
  queue = entries.filter((entry) => parts(entry).some((text) => text.toLowerCase().includes(query)));
  queue.sort(ORDERS[form.elements.order.value]);
  get("count").textContent = queue.length === entries.length
    ? texts(entries.length) : `${queue.length.toLocaleString("en")} of ${texts(entries.length)}`;
  get("cards").replaceChildren();
  showMore();
}

/** Add the next texts when the end of the list is near. */
function showMore() {
  get("cards").append(...queue.splice(0, PAGE).map(card));
  get("more").hidden = !queue.length;
  nearEnd.unobserve(get("more")); // observing again reports at once whether the end is still near
  nearEnd.observe(get("more"));
}

function describe() {
  document.title = get("title").textContent = report.title;
  get("about").append(...definitions(report.about));
  get("figures").append(...definitions(report.figures));
  get("maps").hidden = !entries.some((entry) => entry.weights);
  for (const [samples, property] of [["i:not(.word)", "--weight"], [".word", "--confidence"]]) {
    document.querySelectorAll(`#legend ${samples}`).forEach((sample, index) => {
      sample.style.setProperty(property, index / 4);
    });
  }
  if (entries.every((entry) => entry.chrf === null)) {
    for (const order of ["worst", "best"]) {
      form.elements.order.querySelector(`[value=${order}]`).remove();
    }
  }
}

const nearEnd = new IntersectionObserver(([button]) => {
  if (button.isIntersecting && queue.length) showMore();
}, { rootMargin: "800px" });
get("more").addEventListener("click", showMore);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", update);
describe();
update();
