// Elements, and numbers and times for people. Text is only ever set as text: what comes from apps cannot become markup.

/** Makes an element. `props` are attributes; `on…` are listeners, and a value of false, null or undefined is left out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets the text of an element if it differs, so that a selection stays. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const UNKNOWN = "–";

/** As `rpm list` prints them: powers of 1024. */
export function bytes(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value === 0) return "0 B";
  if (value < 2 ** 20) return `${Math.ceil(value / 1024)} kB`;
  const [unit, name] = value < 2 ** 30 ? [2 ** 20, "MB"] : [2 ** 30, "GB"];
  return `${(value / unit).toFixed(value / unit < 100 ? 1 : 0)} ${name}`;
}

export function percent(value) {
  return value === null || value === undefined ? UNKNOWN : `${value < 10 ? value.toFixed(1) : value.toFixed(0)} %`;
}

export function count(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return value < 10 && value % 1 ? value.toFixed(1) : String(Math.round(value));
}

/** Seconds as milliseconds or seconds. */
export function latency(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value >= 1) return `${value.toFixed(2)} s`;
  return `${value * 1000 < 10 ? (value * 1000).toFixed(1) : (value * 1000).toFixed(0)} ms`;
}

export function lasting(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const parts = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  if (first < 0) return "0 s";
  const [size, unit] = parts[first];
  const whole = `${Math.floor(seconds / size)} ${unit}`;
  if (first >= 2) return whole;
  const [next, name] = parts[first + 1];
  return `${whole} ${Math.floor((seconds % size) / next)} ${name}`;
}

export function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

export function when(ms) {
  return new Date(ms).toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
}

/** The state of an app in a word, and how much it matters. */
export function stateOf(app) {
  const all = app.processes;
  const online = all.filter((one) => one.status === "online").length;
  const is = (status) => all.some((one) => one.status === status);
  if (is("errored")) return ["bad", online ? `${online}/${all.length} online, errored` : "errored"];
  if (is("waiting restart")) return ["bad", "waiting restart"];
  if (all.some((one) => one.others.length)) return ["warning", "reloading"];
  if (all.length && all.every((one) => one.status === "stopped")) return ["", "stopped"];
  if (online < all.length) return ["warning", is("launching") ? "launching" : `${online}/${all.length} online`];
  return ["good", "online"];
}

/** Shows a state. */
export function setState(element, [tone, word]) {
  element.className = `state ${tone}`;
  say(element, word);
}
