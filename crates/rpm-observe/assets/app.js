// One app: what it does now, charts of before, its processes, what happened, and its logs.

import { bytes, count, h, lasting, latency, percent, say, setState, stateOf } from "./dom.js";
import { Chart, Group, HeatMap } from "./chart.js";
import { Events } from "./overview.js";
import { Logs } from "./logs.js";
import { history } from "./server.js";
import { confirm } from "./actions.js";

/** What is shown: seconds, and the name of it. */
const RANGES = [[120, "2 min"], [600, "10 min"], [3600, "1 h"], [21600, "6 h"], [86400, "24 h"], [604800, "7 days"]];
/** Of so many seconds at most the page has each; longer times are averages, and are read again and again. */
const FRESH = 600;
/** Points of a chart. */
const POINTS = 600;
/** Kinds of events that are drawn on the charts. */
const MARKED = new Set(["crashed", "errored", "frozen", "reload_begun", "reload_done", "reload_undone", "memory_limit", "scaled", "watch", "cron"]);

const NOT_MEASURED = "not measured: Node and `--balance proxy` count requests";

export class App {
  #range = FRESH;
  #seen = 0;
  #loaded = Infinity;
  #timer = 0;
  #rows = new Map();

  constructor(store, name) {
    Object.assign(this, { store, name });
    this.group = new Group();
    this.charts = [
      new Chart(this.group, { title: "CPU", series: [["all instances", "cpu", percent]], least: 5 }),
      new Chart(this.group, { title: "Memory", series: [["resident", "memory", bytes]], base: 1024, least: 2 ** 20 }),
      new Chart(this.group, { title: "Requests per second", series: [["all", "requests", count], ["failed (5xx)", "errors", count]], missing: NOT_MEASURED, least: 3 }),
      new Chart(this.group, { title: "Time to an answer", series: [["median", "p50", latency], ["p99", "p99", latency]], missing: NOT_MEASURED, least: 0.002 }),
      new Chart(this.group, { title: "Connections", series: [["open", "connections", count], ["waiting", "queue", count]], least: 3 }),
      new Chart(this.group, { title: "Event loop delay", series: [["worst worker, p99", "delay", latency]], missing: "not measured: Node alone has it, while somebody looks", least: 0.01 }),
    ];
    this.heat = new HeatMap(this.group, "Answers by duration", latency);
    this.logs = new Logs(name);
    this.events = new Events(80);
    this.trouble = h("p", { class: "muted", role: "status", hidden: true });
    this.state = h("span", { class: "state" });
    this.facts = h("span", { class: "muted" });
    this.links = h("span", {});
    this.buttons = h("div", { class: "actions" });
    this.body = h("tbody");
    this.ranges = RANGES.map(([seconds, text]) => h("button", {
      type: "button", "aria-pressed": String(seconds === this.#range), onclick: () => this.#show(seconds),
    }, text));
    this.element = h("div", {},
      h("div", { class: "head" }, h("a", { href: "#/", "aria-label": "All apps" }, "← Apps"), h("h1", {}, name), this.state, this.facts, this.links, this.buttons),
      h("div", { class: "ranges", role: "group", "aria-label": "Time shown" }, this.ranges), this.trouble,
      h("div", { class: "charts" }, this.charts.map((chart) => chart.element), this.heat.element),
      h("div", { class: "split wide" },
        h("div", { class: "split" },
          h("section", { class: "panel" }, h("h2", {}, "Processes"), h("div", { class: "scroll" },
            h("table", {}, h("thead", {}, h("tr", {}, HEADS.map(([text, kind]) => h("th", { class: kind, scope: "col" }, text)))), this.body))),
          this.logs.element),
        this.events.element));
    this.resized = () => this.group.draw();
  }

  start() {
    addEventListener("resize", this.resized);
    this.pause(document.hidden);
  }

  /** In the background it asks for nothing. */
  pause(paused) {
    clearTimeout(this.#timer);
    if (!paused) this.#load();
  }

  end() {
    removeEventListener("resize", this.resized);
    clearTimeout(this.#timer);
    this.logs.end();
    this.ended = true;
  }

  focus() { this.logs.focus(); }
  move() {}

  /** What a key does: the action of that name, if it may be done now. */
  press(action) { this.buttons.querySelector(`[data-do="${action}"]:not(:disabled)`)?.click(); }

  #show(seconds) {
    this.#range = seconds;
    this.ranges.forEach((button, at) => button.setAttribute("aria-pressed", String(RANGES[at][0] === seconds)));
    this.#load();
  }

  /** Reads what is shown from the history: once for ten minutes, which the frames go on, and again and again for longer times. */
  async #load() {
    clearTimeout(this.#timer);
    const range = this.#range;
    const figures = this.charts.flatMap((chart) => chart.series.map(([, figure]) => figure));
    let why = "";
    const series = await history(this.name, range, Math.min(range, POINTS), figures, true).catch((error) => { why = error.message; return null; });
    if (this.ended || range !== this.#range || document.hidden) return;
    this.trouble.hidden = !why;
    say(this.trouble, why && `What was before cannot be read: ${why}`);
    for (const chart of this.charts) {
      chart.data = chart.series.map(([, figure], place) => {
        const points = (series?.figures[figure].values ?? []).map((value, at) => [series.from + at * series.step, value]);
        // What the page has seen is newer than what was written.
        const last = points.at(-1)?.[0] ?? 0;
        return range > FRESH || this.#loaded > FRESH ? points : [...points, ...chart.data[place].filter(([at]) => at > last)];
      });
    }
    this.#warm(series?.durations, range);
    this.#loaded = range;
    this.#span();
    const next = range > FRESH && range <= 21600 ? 10_000 : 60_000;
    this.#timer = setTimeout(() => this.#load(), next);
  }

  /** How long answers took before: columns of ten seconds or more, up to those that the page has seen itself. */
  #warm(past, range) {
    const live = range > FRESH ? [] : this.heat.columns.filter(([, , seconds]) => seconds === 1);
    if (!past) { this.heat.columns = live; return; }
    const { bounds_ms: bounds, from, step, counts } = past;
    const same = !this.heat.bounds.length || String(this.heat.bounds) === String(bounds);
    // The page knows the newer ones.
    if (!same && live.length) { this.heat.columns = live; return; }
    this.heat.bounds = bounds;
    const before = counts.flatMap((column, at) => (column ? [[from + (at + 1) * step, column, step]] : []));
    const first = live[0]?.[0] ?? Infinity;
    this.heat.columns = [...before.filter(([end]) => end < first), ...live];
  }

  #span() {
    const to = this.store.frame?.at ?? Math.floor(Date.now() / 1000);
    const from = to - this.#range;
    const marks = this.store.events
      .filter((event) => event.app === this.name && MARKED.has(event.kind) && event.at_ms / 1000 >= from)
      .map((event) => [event.at_ms / 1000, event.tone, event.text]);
    this.group.show(from, to, marks);
  }

  update() {
    const { frame, events } = this.store;
    this.events.show(events.filter((event) => event.app === this.name));
    if (!frame?.up) return;
    const app = frame.apps.find((one) => one.name === this.name);
    if (!app) {
      setState(this.state, ["bad", "not in the list"]);
      this.buttons.replaceChildren();
      delete this.buttons.dataset.text;
      this.body.replaceChildren();
      return;
    }
    this.app = app;
    setState(this.state, stateOf(app));
    say(this.facts, `${app.mode}, ${PLANES[app.plane] ?? app.plane}${app.namespace === "default" ? "" : `, ${app.namespace}`}`);
    this.#urls(app);
    this.#buttons(app);
    this.#processes(app);
    this.#append(app, frame.at);
  }

  #append(app, at) {
    if (at === this.#seen) return;
    this.#seen = at;
    const from = at - this.#range;
    if (this.#loaded <= FRESH) {
      for (const chart of this.charts) {
        chart.series.forEach(([, figure], place) => {
          const points = chart.data[place];
          if ((points.at(-1)?.[0] ?? 0) < at) points.push([at, app.figures[figure] ?? null]);
          while (points.length && (points[0][0] < from || points[0][0] > at)) points.shift();
        });
      }
    }
    // There are none while nobody counts, as for a moment after a reload.
    if (app.bounds_ms.length && String(this.heat.bounds) !== String(app.bounds_ms)) {
      this.heat.columns = [];
      this.heat.bounds = app.bounds_ms;
    }
    if (app.times.length && this.#range <= FRESH) this.heat.columns.push([at, app.times, 1]);
    // Not those to come either: the clock may have been set back.
    this.heat.columns = this.heat.columns.filter(([moment, , seconds]) => moment > from && moment <= at + seconds);
    this.heat.element.hidden = !this.heat.bounds.length;
    this.#span();
  }

  #urls(app) {
    const text = app.serves.map((one) => one.url ?? one.address).join(" ");
    if (this.links.dataset.text === text) return;
    this.links.dataset.text = text;
    this.links.replaceChildren(...app.serves.flatMap(({ url, address }) => [
      url && /^https?:/.test(url) ? h("a", { href: url, target: "_blank", rel: "noreferrer" }, url) : h("code", {}, address), " "]));
  }

  #buttons(app) {
    const may = this.store.role === "operator";
    const stopped = app.processes.every((one) => one.status === "stopped" || one.status === "errored");
    const wanted = may ? [...(stopped ? [["start", "Start"]] : [["reload", "Reload"], ["restart", "Restart"]]), ["scale", "Scale"],
      ...(stopped ? [] : [["rollback", "Roll back"], ["stop", "Stop"]]), ...app.actions.map((action) => ["trigger", action, action])] : [];
    const text = JSON.stringify(wanted);
    if (this.buttons.dataset.text === text) return;
    this.buttons.dataset.text = text;
    this.buttons.replaceChildren(...wanted.map(([what, word, action], at) => h("button", {
      type: "button", class: at === 0 ? "primary" : null, "data-do": what,
      onclick: () => confirm(action ? { do: what, action } : { do: what }, this.app),
    }, word)));
  }

  #processes(app) {
    const now = this.store.frame.at * 1000;
    const newest = Math.max(0, ...app.processes.flatMap((one) => [one.generation, ...one.others.map((other) => other.generation)]));
    const mixed = app.processes.some((one) => one.others.length || one.generation !== newest);
    const rows = [];
    for (const one of app.processes) {
      rows.push(this.#row(`${one.id}`, [
        String(one.id), [toneOf(one.status), one.status], one.pid ? String(one.pid) : "–", generation(one.generation, newest, mixed),
        percent(one.pid ? one.cpu : null), bytes(one.pid ? one.memory : null), count(one.connections), count(one.restarts),
        one.pid ? lasting(now - one.started_at_ms) : one.exit_code === null ? "–" : `exit ${one.exit_code}`]));
      for (const other of one.others) {
        const left = other.left_ms === null || other.left_ms === undefined ? "" : `${lasting(other.left_ms)} left at most`;
        rows.push(this.#row(`${one.id}/${other.pid}`, [
          "↳", ["warning", other.phase], String(other.pid), generation(other.generation, newest, true), "", "", count(other.connections), "", left]));
      }
    }
    const elements = rows.map(([, element]) => element);
    const keys = new Set(rows.map(([key]) => key));
    for (const key of this.#rows.keys()) if (!keys.has(key)) this.#rows.delete(key);
    if (elements.length !== this.body.childElementCount || elements.some((row, at) => this.body.children[at] !== row)) this.body.replaceChildren(...elements);
  }

  #row(key, values) {
    let row = this.#rows.get(key);
    if (!row) {
      row = h("tr", { class: key.includes("/") ? "other" : null }, HEADS.map(([, kind], at) => h("td", { class: kind },
        at === 1 ? h("span", { class: "state" }) : at === 3 ? h("span", { class: "chip" }) : "")));
      this.#rows.set(key, row);
    }
    values.forEach((value, at) => {
      if (at === 1) setState(row.children[at].firstChild, value);
      else if (at === 3) { row.children[at].firstChild.className = `chip ${value[0]}`; say(row.children[at].firstChild, value[1]); }
      else say(row.children[at], value);
    });
    return [key, row];
  }
}

const HEADS = [["Id", ""], ["State", ""], ["Pid", "narrow-1"], ["Generation", "narrow-2"], ["CPU", "number"], ["Memory", "number"],
  ["Connections", "number narrow-2"], ["Restarts", "number narrow-2"], ["Uptime", "number narrow-1"]];

const PLANES = {
  direct: "connections steered by the kernel", handoff: "connections handed over", proxy: "requests by the proxy", none: "no shared port",
};

/** Its number, and during a reload which is the new one. */
function generation(number, newest, mixed) {
  if (!mixed) return ["", String(number)];
  return number === newest ? ["new", `${number} new`] : ["old", `${number} old`];
}

function toneOf(status) {
  if (status === "online") return "good";
  if (status === "stopped") return "";
  return status === "errored" || status === "waiting restart" ? "bad" : "warning";
}
