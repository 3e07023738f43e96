// One image of the page: its picture, its captions, the confidence of each word, and its buttons.

import { announce, element, percent } from "./elements.js";
import { connectHeat } from "./heat.js";

const COPIED_FOR = 2_000; // milliseconds that a button says so

/** The list item of an image. The page calls `wait`, `work`, and then `show` or `fail`. */
export class Card {
  /** `onRemove` is called when the reader removes the image. */
  constructor(name, onRemove) {
    this.name = name;
    this.state = element("p", { className: "soft" });
    this.figure = element("figure", {}, placeholder());
    this.result = element("div", { className: "body" });
    const remove = element("button", { type: "button", className: "quiet" }, "Remove");
    remove.setAttribute("aria-label", `Remove ${name}`);
    remove.addEventListener("click", onRemove);
    this.remove = remove;
    this.node = element("li", { className: "card" }, this.figure, this.result);
    this.node.setAttribute("aria-label", name);
  }

  /** Say that the image waits for its turn. */
  wait(text) {
    this.state.textContent = text;
    if (!this.result.contains(this.state)) this.#fill(this.state);
  }

  /** Say that the image is being captioned. */
  work() {
    this.wait("Captioning");
    this.node.classList.add("busy");
    this.node.setAttribute("aria-busy", "true");
  }

  /** Show captions as of engine.js, the best first; `heat` is {explain, cropped}, or null. */
  show({ captions, thumbnail }, heat) {
    this.#settle();
    const shown = captions.filter((caption) => !caption.abstained);
    this.#showPicture(thumbnail, shown[0]?.text ?? this.name);
    const [best, ...others] = shown;
    if (!best) {
      this.#fill(message("soft", "No caption is as confident as min_confidence asks for."));
      announce(`${this.name}: no confident caption`);
      return;
    }
    const text = element("p", { className: "text" }, best.text);
    const words = wordList(best);
    const hint = heat && thumbnail && this.#connectHeat(words, heat);
    this.#fill(text, verdict(best), words, hint, otherCaptions(others), copyButton(best.text));
    const unsure = best.sure === false ? ", unsure" : "";
    announce(`${this.name}: ${best.text}${unsure}`);
  }

  /** Say why the image has no caption; `onTryAgain` is called by a button, unless it is null. */
  fail(reason, onTryAgain) {
    this.#settle();
    this.node.classList.add("failed");
    const button = onTryAgain && element("button", { type: "button" }, "Try again");
    button?.addEventListener("click", onTryAgain);
    this.#fill(message("error", `${this.name}: ${reason}`), button);
    announce(`${this.name} has no caption: ${reason}`);
  }

  /** Show heat maps of words, and return how to see them. */
  #connectHeat(words, heat) {
    const text = "Point at a word, or move to it by Tab, to see what it depends on.";
    const hint = element("p", { className: "soft hint" }, text);
    const onProblem = (reason) => { hint.textContent = `No heat map: ${reason}`; };
    connectHeat(this.figure, words, { ...heat, onProblem });
    return hint;
  }

  #settle() {
    this.node.classList.remove("busy", "failed");
    this.node.removeAttribute("aria-busy");
  }

  /** Show the parts of a result above the buttons; a button among them joins the others. */
  #fill(...parts) {
    const name = element("p", { className: "name" }, this.name);
    const shown = parts.filter(Boolean);
    const buttons = shown.filter((part) => part.tagName === "BUTTON");
    const content = shown.filter((part) => part.tagName !== "BUTTON");
    const hadFocus = document.activeElement === this.remove;
    const actions = element("div", { className: "actions" }, ...buttons, this.remove);
    this.result.replaceChildren(name, ...content.filter((part) => part.className !== "others"),
      actions, ...content.filter((part) => part.className === "others"));
    if (hadFocus) this.remove.focus();
  }

  #showPicture(blob, alt) {
    if (!blob) return; // the browser cannot read it
    const url = URL.createObjectURL(blob);
    const image = element("img", { alt, src: url });
    image.onload = image.onerror = () => URL.revokeObjectURL(url); // the picture stays
    this.figure.replaceChildren(element("div", { className: "shown" }, image));
  }
}

const placeholder = () => document.querySelector("#input .picture").cloneNode(true);

const message = (kind, text) => element("p", { className: `text message ${kind}` }, text);

/** Return the confidence of a caption in words, or null for a model without confidences. */
function verdict({ confidence, sure }) {
  if (confidence === null) return null;
  const [kind, start] = sure === false ? [" unsure", "Unsure: "] : ["", ""];
  return element("p", { className: `verdict${kind}` }, `${start}${percent(confidence)} confident`);
}

/** Return the words of a caption, each with a bar and a number. */
function wordList({ words }) {
  const calibrated = words.some((word) => word.confidence !== null);
  const list = element("ol", { className: "words" }, ...words.map((word) => {
    const share = word.confidence ?? Math.exp(word.logProb);
    const item = element("li", {}, word.text, element("span", { className: "bar" }));
    item.style.setProperty("--share", `${100 * share}%`);
    item.dataset.value = percent(share);
    return item;
  }));
  list.setAttribute("aria-label", `${calibrated ? "Confidence" : "Probability"} of each word`);
  return list;
}

/** Return the further captions, each with its words, or null if there are none. */
function otherCaptions(captions) {
  if (!captions.length) return null;
  const items = captions.map((caption) => {
    const share = caption.confidence === null ? "" : ` (${percent(caption.confidence)})`;
    const details = element("details", {},
      element("summary", {}, caption.text + share), wordList(caption));
    return element("li", {}, details, copyButton(caption.text, "Copy"));
  });
  return element("div", { className: "others" },
    element("h3", {}, "Further captions"), element("ol", {}, ...items));
}

/** Return a button that copies a caption. */
function copyButton(text, label = "Copy alt text") {
  const button = element("button", { type: "button" }, label);
  button.setAttribute("aria-label", `${label}: ${text}`);
  button.addEventListener("click", async () => {
    const copied = await copy(text);
    button.textContent = copied ? "Copied" : "Copying is blocked: select the text";
    announce(copied ? `Copied: ${text}` : "Copying is blocked: select the text");
    setTimeout(() => { button.textContent = label; }, COPIED_FOR);
  });
  return button;
}

/** Resolve to whether a text could be copied. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // without https there is no clipboard: copy a selection
    const field = element("textarea", { value: text, className: "visually-hidden" });
    const focused = document.activeElement;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return copied;
  }
}
