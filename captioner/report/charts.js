// The scores of the whole set with their intervals, and a histogram of one measure of the images.

const MAX_BINS = 32;

function drawFigures(figures) {
  for (const [name, value, low, high] of figures) {
    const end = (high ?? value) > 100 ? 1000 : 100; // CIDEr can reach 1000, but is rarely above 100
    const share = (number) => `${(100 * Math.max(0, number)) / end}%`;
    const known = low !== null && high !== null;
    const bar = element("i", { className: "bar" });
    const whisker = element("i", { className: "whisker", hidden: !known });
    bar.style.width = share(value);
    whisker.style.left = share(low);
    whisker.style.width = share(high - low);
    get("figures").append(
      element("span", {}, name),
      element("b", {}, decimal(value)),
      element("div", { className: "track", ariaHidden: "true", title: `0 to ${end}` }, bar, whisker),
      element("small", { title: "95 % interval" }, known ? `${decimal(low)} – ${decimal(high)}` : ""));
  }
}

/**
 * Draw a bar for each bin. Return a function of the values that match the search and of the chosen
 * range; it redraws the bars of these values, and marks the bins in the range.
 */
function drawHistogram(values, choose) {
  const bins = binsOf(values);
  const counts = bins.count(values);
  const height = (count) => `${(100 * count) / Math.max(...counts)}%`;
  const buttons = counts.map((count) => {
    const bars = [element("i"), element("i")];
    bars[0].style.height = height(count);
    return element("button", { type: "button" }, ...bars);
  });
  let start = 0;
  const range = (first, last) =>
    [bins.edge(Math.min(first, last)), bins.edge(Math.max(first, last) + 1)];
  buttons.forEach((button, index) => {
    button.addEventListener("pointerdown", (event) => {
      start = index;
      button.releasePointerCapture(event.pointerId); // so that a finger enters other bins too
    });
    button.addEventListener("pointerenter", (event) => {
      if (event.buttons) choose(...range(start, index));
    });
    button.addEventListener("click", () => {
      const onlyThis = buttons.every(
        (other) => (other === button) === (other.ariaPressed === "true"));
      choose(...(onlyThis ? ["", ""] : range(index, index)));
    });
  });
  get("bins").replaceChildren(...buttons);
  get("axis").replaceChildren(...ticks(bins, counts.length));
  addArrowKeys(get("bins"));

  return (values, low, high) => {
    const counts = bins.count(values);
    buttons.forEach((button, index) => {
      const [from, below] = range(index, index);
      button.lastChild.style.height = height(counts[index]);
      button.title = button.ariaLabel = `${from} to ${below}: ${images(counts[index])}`;
      const limited = low > -Infinity || high < Infinity;
      button.ariaPressed = String(limited && from >= low && below <= high);
    });
  };
}

/** Bins of equal width with round edges for all values. An edge belongs to the bin above it. */
function binsOf(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const minWidth = (high - low) / (MAX_BINS - 2) || 1;
  const power = 10 ** Math.floor(Math.log10(minWidth));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= minWidth);
  const bin = (value) => Math.floor(value / step + 1e-9); // without 1e-9, 0.3 / 0.1 is below 3
  const edge = (index) => Number(((bin(low) + index) * step).toPrecision(12));
  const count = (selected) => {
    const counts = Array(values.length && bin(high) - bin(low) + 1).fill(0);
    for (const value of selected) counts[bin(value) - bin(low)] += 1;
    return counts;
  };
  return { edge, count };
}

/** Label about six edges of bins. */
function ticks(bins, count) {
  const every = Math.ceil(count / 6);
  return Array.from({ length: Math.floor(count / every) + 1 }, (_, index) => {
    const tick = element("span", {}, String(bins.edge(index * every)));
    tick.style.left = `${(100 * index * every) / count}%`;
    return tick;
  });
}
