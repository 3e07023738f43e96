// The heat map of a word over a picture: where the model looked when it chose the word.

import { element } from "./elements.js";

const COLOR = [255, 72, 0];
const MOST_OPAQUE = 190; // of 255: the picture stays visible
const HOVER = 150; // milliseconds that the pointer rests on a word before it counts

/**
 * Show heat maps over a picture while the pointer or the focus is on a word.
 *
 * `explain()` resolves to [{text, heat}] and is called once, when the first map is wanted. `heat`
 * is rows of cells; they cover the picture, or its center square if `cropped`.
 */
export function connectHeat(figure, words, { explain, cropped, onProblem }) {
  const items = [...words.children];
  let maps = null; // a promise, once wanted
  let wanted = null; // the item whose map is to be shown

  async function show(item) {
    wanted = item;
    try {
      const index = items.indexOf(item);
      const found = (await (maps ??= explain()))[index];
      if (wanted !== item) return;
      hide();
      wanted = item;
      if (found?.heat && found.text === item.firstChild.data) draw(figure, found.heat, cropped);
    } catch (error) {
      maps = null; // the next word tries again
      onProblem(error.message);
    }
  }

  function hide() {
    wanted = null;
    figure.querySelector("canvas")?.remove();
  }

  for (const item of items) {
    let timer;
    item.tabIndex = 0;
    item.addEventListener("focus", () => show(item));
    item.addEventListener("blur", hide);
    item.addEventListener("pointerenter", () => { timer = setTimeout(() => show(item), HOVER); });
    item.addEventListener("pointerleave", () => {
      clearTimeout(timer);
      hide();
    });
  }
}

function draw(figure, heat, cropped) {
  const picture = figure.querySelector("img");
  if (!picture) return;
  const [rows, columns] = [heat.length, heat[0].length];
  const canvas = element("canvas", { width: columns, height: rows });
  canvas.setAttribute("aria-hidden", "true");
  const largest = Math.max(...heat.flat());
  const pixels = new ImageData(columns, rows);
  heat.flat().forEach((value, index) => {
    const share = largest > 0 ? Math.max(0, value) / largest : 0;
    pixels.data.set([...COLOR, Math.round(MOST_OPAQUE * share)], 4 * index);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const side = Math.min(picture.naturalWidth, picture.naturalHeight);
  if (cropped) {
    canvas.style.width = `${100 * side / picture.naturalWidth}%`;
    canvas.style.height = `${100 * side / picture.naturalHeight}%`;
  }
  picture.parentElement.append(canvas);
}
