// Charts on canvas: lines over time, sparklines, and a map of how long answers took. A point is [seconds since 1970, value]; a value of null
// is a gap.

import { clock, h, say, when } from "./dom.js";

const SANS = '11px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
/** Space of a chart around its lines, in pixels: for the scale on the left, and the times below. */
const PAD = { left: 54, right: 12, top: 8, bottom: 20 };

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Sizes a canvas to what is seen of it. Returns null while it is hidden. */
function fitted(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  if (!width || !height) return null;
  const ratio = devicePixelRatio || 1;
  const [w, t] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== t) { canvas.width = w; canvas.height = t; }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Round numbers from 0 to at least `most`: in steps of 1, 2 or 5 times a power of ten of a unit, which are those of `base`. */
export function scale(most, steps = 3, base = 10) {
  const unit = base === 10 ? 1 : base ** Math.max(0, Math.floor(Math.log(most) / Math.log(base)));
  const rough = most / unit / steps;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9)) * power;
  const count = Math.max(1, Math.ceil(most / unit / step - 1e-9));
  return Array.from({ length: count + 1 }, (_, at) => at * step * unit);
}

/** Times for the axis, at whole minutes, hours or days of this place. */
function times(from, to, most) {
  const sizes = [10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800];
  const size = sizes.find((one) => (to - from) / one <= most) ?? 172800;
  const shift = new Date(to * 1000).getTimezoneOffset() * 60;
  const first = Math.ceil((from - shift) / size) * size + shift;
  const all = [];
  for (let at = first; at <= to; at += size) all.push(at);
  return { all, days: size >= 43200 };
}

function label(seconds, days, short) {
  const date = new Date(seconds * 1000);
  if (days) return date.toLocaleDateString([], { day: "numeric", month: "short" });
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: short ? "2-digit" : undefined, hourCycle: "h23" });
}

/** Draws a line, with gaps. */
function line(context, points, x, y) {
  context.beginPath();
  let pen = false;
  for (const [at, value] of points) {
    if (value === null || value === undefined) { pen = false; continue; }
    if (pen) context.lineTo(x(at), y(value));
    else context.moveTo(x(at), y(value));
    pen = true;
  }
  context.stroke();
}

/** Fills what is below a line. */
function area(context, points, x, y, floor) {
  let begun = null;
  let last = null;
  const close = () => {
    if (begun === null) return;
    context.lineTo(last, floor);
    context.lineTo(begun, floor);
    context.fill();
    begun = null;
  };
  for (const [at, value] of points) {
    if (value === null || value === undefined) { close(); continue; }
    if (begun === null) { context.beginPath(); begun = x(at); context.moveTo(begun, y(value)); }
    else context.lineTo(x(at), y(value));
    last = x(at);
  }
  close();
}

/** The last point that is known, if it is not old. */
function last(points, from, to) {
  const old = to - Math.max(10, (to - from) / 100);
  for (let at = points.length - 1; at >= 0 && points[at][0] > old; at -= 1) {
    if (points[at][1] !== null && points[at][1] !== undefined) return points[at];
  }
  return null;
}

/** A small line without scale, of the seconds until `to`. */
export function sparkline(canvas, points, to, seconds, colour = "--series-1") {
  const fit = fitted(canvas);
  if (!fit) return;
  const { context, width, height } = fit;
  const known = points.map(([, value]) => value).filter((value) => value !== null && value !== undefined);
  context.strokeStyle = style("--line");
  context.beginPath();
  context.moveTo(0, height - 1.5);
  context.lineTo(width, height - 1.5);
  context.stroke();
  if (!known.length) return;
  const most = Math.max(...known, 1e-9);
  const x = (at) => (1 - (to - at) / seconds) * (width - 2) + 1;
  const y = (value) => height - 2 - (value / most) * (height - 5);
  context.fillStyle = style(colour);
  context.globalAlpha = 0.16;
  area(context, points, x, y, height - 1.5);
  context.globalAlpha = 1;
  context.strokeStyle = style(colour);
  context.lineWidth = 1.5;
  line(context, points, x, y);
}

/** Charts over the same time: where the pointer is on one, all show their values. */
export class Group {
  #charts = [];
  #drawing = 0;
  at = null;
  span = [0, 1];
  marks = [];

  add(chart) { this.#charts.push(chart); return chart; }

  /** The time that is shown, and what happened in it: [seconds, tone, text]. */
  show(from, to, marks) {
    this.span = [from, to];
    this.marks = marks;
    this.draw();
  }

  /** Where the pointer is. It moves more often than the screen changes. */
  point(at) {
    this.at = at;
    this.#drawing ||= requestAnimationFrame(() => { this.#drawing = 0; this.draw(); });
  }

  draw() { for (const chart of this.#charts) chart.draw(); }
}

/** Lines over time, with a legend that says the last values, or those below the pointer. */
export class Chart {
  /** `series`: [name, figure, how it is printed]. `missing` is said when nothing is known. */
  constructor(group, { title, series, missing, base = 10, least = 1 }) {
    Object.assign(this, { group, title, series, base, least, data: series.map(() => []) });
    this.canvas = h("canvas", { role: "img", "aria-label": title });
    this.values = series.map(() => h("b"));
    const keys = series.map(([name], at) => h("span", { class: `series-${at + 1}` }, h("span", { class: "key" }, name), " ", this.values[at]));
    this.missing = h("div", { class: "missing", hidden: true }, missing ?? "no figures in this time");
    this.element = h("section", { class: "panel chart" },
      h("div", { class: "panel-head" }, h("h2", {}, title), h("div", { class: "legend" }, keys)), this.canvas, this.missing);
    this.canvas.addEventListener("pointermove", (event) => this.group.point(this.#time(event)));
    this.canvas.addEventListener("pointerleave", () => this.group.point(null));
    group.add(this);
  }

  #time(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - PAD.left) / (box.width - PAD.left - PAD.right);
    const [from, to] = this.group.span;
    return from + Math.min(1, Math.max(0, share)) * (to - from);
  }

  /** What is known of each series near a time. */
  #near(at) {
    return this.data.map((points) => {
      let best = null;
      for (const point of points) if (best === null || Math.abs(point[0] - at) < Math.abs(best[0] - at)) best = point;
      return best;
    });
  }

  draw() {
    const fit = fitted(this.canvas);
    if (!fit) return;
    const { context, width, height } = fit;
    const [from, to] = this.group.span;
    const known = this.data.flat().filter(([at, value]) => value !== null && value !== undefined && at >= from);
    this.missing.hidden = known.length > 0;
    const ticks = scale(Math.max(this.least, ...known.map(([, value]) => value)), 3, this.base);
    const most = ticks.at(-1);
    const floor = height - PAD.bottom;
    const x = (at) => PAD.left + ((at - from) / (to - from)) * (width - PAD.left - PAD.right);
    const y = (value) => floor - (value / most) * (floor - PAD.top);
    this.#axes({ context, width, height, ticks, x, y, floor });
    context.save();
    context.beginPath();
    context.rect(PAD.left, 0, width - PAD.left - PAD.right + 1, height);
    context.clip();
    this.#marks(context, x, floor);
    this.data.forEach((points, at) => {
      context.strokeStyle = context.fillStyle = style(`--series-${at + 1}`);
      context.lineWidth = 1.6;
      if (at === 0) {
        context.globalAlpha = 0.12;
        area(context, points, x, y, floor);
        context.globalAlpha = 1;
      }
      line(context, points, x, y);
    });
    context.restore();
    this.#say(context, x, y, floor);
  }

  #axes({ context, width, ticks, x, y, floor }) {
    const print = this.series[0][2];
    context.font = SANS;
    context.strokeStyle = style("--line");
    context.fillStyle = style("--muted");
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const tick of ticks) {
      const at = Math.round(y(tick)) + 0.5;
      context.beginPath();
      context.moveTo(PAD.left, at);
      context.lineTo(width - PAD.right, at);
      context.stroke();
      context.fillText(tick === 0 ? "0" : print(tick), PAD.left - 7, at);
    }
    const [from, to] = this.group.span;
    const { all, days } = times(from, to, Math.max(2, Math.floor((width - PAD.left) / 90)));
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const at of all) {
      const place = Math.min(Math.max(x(at), PAD.left + 14), width - PAD.right - 20);
      context.fillText(label(at, days, to - from < 300), place, floor + 6);
    }
  }

  #marks(context, x, floor) {
    context.setLineDash([3, 3]);
    context.lineWidth = 1;
    for (const [at, tone] of this.group.marks) {
      const place = Math.round(x(at)) + 0.5;
      context.strokeStyle = context.fillStyle = style(tone === "plain" ? "--muted" : `--${tone}`);
      context.beginPath();
      context.moveTo(place, PAD.top);
      context.lineTo(place, floor);
      context.stroke();
      context.beginPath();
      context.moveTo(place - 4, 1);
      context.lineTo(place + 4, 1);
      context.lineTo(place, 7);
      context.fill();
    }
    context.setLineDash([]);
  }

  #say(context, x, y, floor) {
    const at = this.group.at;
    const shown = at === null ? this.data.map((points) => last(points, ...this.group.span)) : this.#near(at);
    this.series.forEach(([, , print], place) => say(this.values[place], print(shown[place]?.[1] ?? null)));
    const names = this.series.map(([name, , print], place) => `${name} ${print(shown[place]?.[1] ?? null)}`);
    this.canvas.setAttribute("aria-label", `${this.title}: ${names.join(", ")}`);
    if (at === null) return;
    const place = shown.find((point) => point);
    if (!place) return;
    const cross = Math.round(x(place[0])) + 0.5;
    context.strokeStyle = style("--muted");
    context.beginPath();
    context.moveTo(cross, PAD.top);
    context.lineTo(cross, floor);
    context.stroke();
    shown.forEach((point, series) => {
      if (!point || point[1] === null || point[1] === undefined) return;
      context.fillStyle = style(`--series-${series + 1}`);
      context.beginPath();
      context.arc(x(point[0]), y(point[1]), 3, 0, 7);
      context.fill();
    });
    const [from, to] = this.group.span;
    const mark = this.group.marks.find(([moment]) => Math.abs(moment - at) < (to - from) / 120);
    const text = (to - from > 43200 ? when : clock)(place[0] * 1000) + (mark ? `  ${mark[2]}` : "");
    context.font = SANS;
    const size = context.measureText(text).width + 10;
    const left = Math.max(PAD.left, Math.min(cross + 6, x(to) - size));
    context.fillStyle = style("--raised");
    context.fillRect(left, PAD.top, size, 18);
    context.fillStyle = style("--text");
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillText(text, left + 5, PAD.top + 9);
  }
}

/** How long answers took: time to the right, duration upwards, darker where there were more. */
export class HeatMap {
  /** Columns: [when it ends, [count of each bucket], its seconds]. */
  columns = [];
  bounds = [];

  constructor(group, title, print) {
    Object.assign(this, { group, print });
    this.canvas = h("canvas", { role: "img", "aria-label": title });
    this.note = h("div", { class: "legend" });
    this.missing = h("div", { class: "missing" }, "no answers were measured in this time");
    this.element = h("section", { class: "panel chart whole" },
      h("div", { class: "panel-head" }, h("h2", {}, title), this.note), this.canvas, this.missing);
    group.add(this);
  }

  draw() {
    const fit = fitted(this.canvas);
    if (!fit) return;
    const { context, width, height } = fit;
    const [from, to] = this.group.span;
    const shown = this.columns.filter(([at]) => at >= from);
    const highest = shown.reduce((all, [, counts]) => Math.max(all, counts.findLastIndex((value) => value > 0)), -1);
    const top = Math.min(this.bounds.length, Math.max(3, highest)) + 1;
    const any = highest >= 0;
    this.missing.hidden = any;
    const floor = height - PAD.bottom;
    const tall = (floor - PAD.top) / top;
    const x = (at) => PAD.left + ((at - from) / (to - from)) * (width - PAD.left - PAD.right);
    // Columns of different lengths are compared by the answers in the time of the longest.
    const longest = shown.reduce((all, [, , seconds]) => Math.max(all, seconds), 1);
    const most = shown.reduce((all, [, counts, seconds]) => Math.max(all, ...counts.map((value) => value * longest / seconds)), 1);
    const colour = style("--heat");
    for (const [at, counts, seconds] of shown) {
      const wide = Math.max(1.5, x(from + seconds) - x(from) + 0.5);
      counts.forEach((value, bucket) => {
        if (!value) return;
        // Rare slow answers are what one looks for: a single one is visible beside thousands.
        const share = 0.25 + 0.75 * (Math.log1p(value * longest / seconds) / Math.log1p(most));
        context.fillStyle = `rgba(${colour}, ${share})`;
        const left = Math.max(PAD.left, x(at) - wide);
        context.fillRect(left, floor - (bucket + 1) * tall, Math.max(1, x(at) - left), tall - 0.5);
      });
    }
    context.font = SANS;
    context.fillStyle = style("--muted");
    context.textAlign = "right";
    context.textBaseline = "middle";
    const every = Math.ceil(top / 6);
    for (let bucket = 0; bucket < top && bucket < this.bounds.length; bucket += every) {
      context.fillText(this.print(this.bounds[bucket] / 1000), PAD.left - 7, floor - (bucket + 1) * tall + 4);
    }
    const { all, days } = times(from, to, Math.max(2, Math.floor((width - PAD.left) / 90)));
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const at of all) context.fillText(label(at, days, to - from < 300), Math.min(Math.max(x(at), PAD.left + 14), width - PAD.right - 20), floor + 6);
    const total = shown.reduce((sum, [, counts]) => sum + counts.reduce((a, b) => a + b, 0), 0);
    say(this.note, any ? `${total.toLocaleString()} answers` : "");
  }
}
