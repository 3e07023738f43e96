// What all parts of the page use: making elements, numbers, and telling a screen reader.

export const get = (id) => document.getElementById(id);

/** Create an element. Strings become text, never markup. */
export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export const percent = (share) =>
  (share > 0 && share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`);

/** Let a screen reader say a text when it has finished what it says now. */
export function announce(text) {
  const log = get("announcer");
  log.append(element("span", {}, `${text}. `));
  while (log.childElementCount > 20) log.firstElementChild.remove();
}
