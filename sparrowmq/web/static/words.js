// How figures and moments read, and how elements are made. Names from the cluster only ever become text nodes here.

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
export const UNKNOWN = "\u2013";

export const count = (value) => (value === null || value === undefined ? UNKNOWN : whole.format(value));

export function short(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value < 100_000) return whole.format(value);
  return value < 1_000_000 ? `${whole.format(value / 1e3)}k` : `${(value / 1e6).toFixed(1)}M`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value >= 10_000) return `${(value / 1e3).toFixed(1)} s`;
  if (value >= 1000) return `${(value / 1e3).toFixed(2)} s`;
  return `${value >= 100 ? value.toFixed(0) : value.toPrecision(2)} ms`;
}

export function seconds(value) {
  if (value < 120) return milliseconds(value * 1e3);
  return value < 7200 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`;
}

export function clock(unixS, digits = 0) {
  const date = new Date(unixS * 1e3);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return digits ? `${day}.${String(date.getMilliseconds()).padStart(3, "0").slice(0, digits)}` : day;
}

export const bare = (id) => id.replace(/^worker-/, "");

export function make(tag, name = "", ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return made;
}

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function dress(element, name) {
  if (element.className !== name) element.className = name;
}

/** Have `parent` hold one element for each row, in order, made once and then updated. */
export function keyed(parent, rows, key, create, update, empty = "") {
  const kept = parent.kept ?? (parent.kept = new Map());
  const wanted = new Set(rows.map(key));
  for (const [id, element] of kept) {
    if (!wanted.has(id)) {
      element.remove();
      kept.delete(id);
    }
  }
  rows.forEach((row, index) => {
    let element = kept.get(key(row));
    if (!element) {
      element = create(row);
      kept.set(key(row), element);
    }
    update(element, row);
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
  const last = parent.querySelector(":scope > .empty");
  if (rows.length || !empty) last?.remove();
  else if (last) say(last, empty);
  else parent.append(make("p", "empty", empty));
}
