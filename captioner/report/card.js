// One image: its photo, its caption word by word, its references, other captions and scores.

const WARM = [255, 122, 0];
const COOL = [0, 130, 255];

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
  const src = `data:image/webp;base64,${entry.photo}`;
  const image = element("img", { alt: `Photo ${entry.name}`, src });
  const frame = element("div", { className: "frame" }, image, element("canvas", { hidden: true }));
  const ratio = entry.width / entry.height;
  frame.style.aspectRatio = ratio;
  frame.style.width = `${Math.min(1, ratio / (4 / 3)) * 100}%`; // fill the 4:3 box in one direction
  return element("div", { className: "photo" }, frame, readout);
}

function caption(entry, query) {
  const line = element("p", { className: "caption" });
  for (const [index, [text, confidence, columns, map]] of entry.words.entries()) {
    const word = element("span", { className: map ? "word mapped" : "word" }, marked(text, query));
    word.style.setProperty("--confidence", confidence ?? 0);
    word.role = "button";
    word.ariaLabel = confidence === null ? text : `${text}, ${percent(confidence)}`;
    const show = () => showDetails(word, text, confidence, columns, map);
    for (const event of ["pointerenter", "focus", "click"]) word.addEventListener(event, show);
    for (const event of ["pointerleave", "blur"]) {
      word.addEventListener(event, () => hideDetails(word));
    }
    if (index && !entry.joined.includes(index)) line.append(" ");
    line.append(word);
  }
  line.append(" ");
  if (!entry.words.length) line.append(element("em", {}, "(no words)"));
  addArrowKeys(line);
  line.append(...unsureMark(entry.sure));
  return line;
}

/** The mark of a caption with too little confidence; nothing if it is sure, or not calibrated. */
function unsureMark(sure) {
  if (sure !== false) return [];
  const title = "The confidence is below the threshold of captioner calibrate.";
  return [element("small", { className: "unsure", title }, "unsure")];
}

/** Show the confidence of the word, and its heat map over the photo. */
function showDetails(word, text, confidence, columns, map) {
  const box = word.closest(".card").querySelector(".photo");
  const readout = box.querySelector(".readout");
  readout.textContent = confidence === null ? text : `${text}  ${percent(confidence)}`;
  readout.hidden = confidence === null && !map;
  const canvas = box.querySelector("canvas");
  if (map && canvas) paint(canvas, columns, map);
  if (canvas) canvas.hidden = !map;
}

function hideDetails(word) {
  for (const shown of word.closest(".card").querySelectorAll("canvas, .readout")) {
    shown.hidden = true;
  }
}

/** Paint a heat map, one pixel for each cell; the browser interpolates between them. */
function paint(canvas, columns, map) {
  const cells = Int8Array.from(atob(map), (byte) => byte.charCodeAt(0));
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
  return [element("div", {}, element("h3", {}, "References"), element("ul", {}, ...items))];
}

function otherCaptions(entry, query) {
  if (!entry.others.length) return [];
  const items = entry.others.map(([text, logProb, sure]) => element("li", {}, marked(text, query), " ",
    element("small", { title: "log-probability" }, decimal(logProb)), " ", ...unsureMark(sure)));
  const count = entry.others.length;
  const summary = count === 1 ? "1 other caption" : `${count} other captions`;
  return [element("details", {}, element("summary", {}, summary), element("ol", {}, ...items))];
}

/** The text, with the words that match the search highlighted. */
function marked(text, query) {
  const parts = document.createDocumentFragment();
  for (const part of text.split(WORDS)) {
    const matches = query.some((start) => part.toLowerCase().startsWith(start));
    parts.append(matches ? element("mark", {}, part) : part);
  }
  return parts;
}
