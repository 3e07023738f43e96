// The scores of the whole set with their intervals, and the histogram of one measure over the images.

const MOST_BINS = 32;

function drawFigures(figures) {
  for (const [name, value, low, high] of figures) {
    const end = (high ?? value) > 100 ? 1000 : 100; // CIDEr goes up to 1000, and rarely beyond 100
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

/** Draw a bar for each bin, once; give the function that shows which images are left, and which bins are chosen. */
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
  const range = (one, other) => [bins.edge(Math.min(one, other)), bins.edge(Math.max(one, other) + 1)];
  buttons.forEach((button, index) => {
    button.addEventListener("pointerdown", (event) => {
      start = index;
      button.releasePointerCapture(event.pointerId); // a finger then enters the next bin as a mouse does
    });
    button.addEventListener("pointerenter", (event) => { if (event.buttons) choose(...range(start, index)); });
    button.addEventListener("click", () => {
      const alone = buttons.every((other) => (other === button) === (other.ariaPressed === "true"));
      choose(...(alone ? ["", ""] : range(index, index)));
    });
  });
  get("bins").replaceChildren(...buttons);
  get("axis").replaceChildren(...ticks(bins, counts.length));
  rove(get("bins"));

  return (left, low, high) => {
    const now = bins.count(left);
    buttons.forEach((button, index) => {
      const [from, below] = range(index, index);
      button.lastChild.style.height = height(now[index]);
      button.title = button.ariaLabel = `${from} to ${below}: ${images(now[index])}`;
      button.ariaPressed = String(from >= low && below <= high && (low > -Infinity || high < Infinity));
    });
  };
}

/** Equal bins with round ends that hold all values; an end belongs to the bin above it. */
function binsOf(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const least = (high - low) / (MOST_BINS - 2) || 1;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= least);
  const place = (value) => Math.floor(value / step + 1e-9); // or 0.3 would fall short of the third tenth
  const edge = (index) => Number(((place(low) + index) * step).toPrecision(12));
  const count = (some) => {
    const counts = Array(values.length && place(high) - place(low) + 1).fill(0);
    for (const value of some) counts[place(value) - place(low)] += 1;
    return counts;
  };
  return { edge, count };
}

/** Label about six ends of bins. */
function ticks(bins, count) {
  const every = Math.ceil(count / 6);
  return Array.from({ length: Math.floor(count / every) + 1 }, (_, index) => {
    const tick = element("span", {}, String(bins.edge(index * every)));
    tick.style.left = `${(100 * index * every) / count}%`;
    return tick;
  });
}
