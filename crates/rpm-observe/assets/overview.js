// All apps: sums, a table with sparklines, and what happened of late.

import { bytes, clock, count, h, lasting, latency, percent, say, setState, stateOf, when } from "./dom.js";
import { sparkline } from "./chart.js";
import { history } from "./server.js";
import { Hosts } from "./hosts.js";

/** Seconds of the sparklines. */
const SPARK = 120;

/** The columns: name, class, what is shown, what it is sorted by. */
const COLUMNS = [
  ["App", "name", null, (app) => app.name.toLowerCase()],
  ["State", "", null, (app) => stateOf(app)[0] + stateOf(app)[1]],
  ["Instances", "number narrow-2", (app) => `${online(app)}/${app.processes.length}`, (app) => app.processes.length],
  ["CPU", "number", (app) => percent(app.figures.cpu), (app) => app.figures.cpu ?? -1],
  ["", "narrow-1", null, null],
  ["Memory", "number", (app) => bytes(app.figures.memory), (app) => app.figures.memory ?? -1],
  ["Requests/s", "number narrow-1", (app) => count(app.figures.requests), (app) => app.figures.requests ?? -1],
  ["", "narrow-3", null, null],
  ["p99", "number narrow-2", (app) => latency(app.figures.p99), (app) => app.figures.p99 ?? -1],
  ["Connections", "number narrow-3", (app) => count(app.figures.connections), (app) => app.figures.connections ?? -1],
  ["Restarts", "number narrow-2", (app) => count(restarts(app)), (app) => restarts(app)],
  ["Uptime", "number narrow-2", (app, now) => uptime(app, now), (app) => -Math.max(0, ...app.processes.map((one) => one.started_at_ms))],
];

const online = (app) => app.processes.filter((one) => one.status === "online").length;
const restarts = (app) => app.processes.reduce((sum, one) => sum + one.restarts, 0);

function uptime(app, now) {
  const begun = app.processes.filter((one) => one.pid).map((one) => one.started_at_ms);
  return begun.length ? lasting(now - Math.max(...begun)) : "–";
}

function tile(name) {
  const value = h("div", { class: "value" }, "–");
  const more = h("div", { class: "more" });
  return { element: h("div", { class: "panel tile" }, h("div", { class: "name" }, name), value, more), value, more };
}

/** What happened, newest first. */
export class Events {
  constructor(most) {
    this.most = most;
    this.list = h("ul", { class: "events", tabindex: 0, "aria-label": "Events" });
    this.element = h("section", { class: "panel" }, h("h2", {}, "Events"), this.list);
    this.seen = "";
  }

  show(events) {
    const newest = `${events.at(-1)?.seq} ${events.at(-1)?.at_ms}`;
    if (newest === this.seen) return;
    this.seen = newest;
    this.list.replaceChildren(...events.slice(-this.most).reverse().map(item));
    if (!events.length) this.list.replaceChildren(h("li", { class: "empty" }, "nothing yet"));
  }
}

function item(event) {
  const who = event.app ? `${event.app}${event.id === null ? "" : ` ${event.id}`}` : "daemon";
  return h("li", { class: event.tone },
    h("time", { datetime: new Date(event.at_ms).toISOString(), title: when(event.at_ms) }, clock(event.at_ms)),
    h("div", {}, h("span", { class: "who" }, who), " ", h("span", { class: "what" }, event.text),
      event.lines.length > 0 && h("details", {}, h("summary", {}, "its last lines"), h("pre", {}, event.lines.join("\n")))));
}

export class Overview {
  #rows = new Map();
  #drawn = 0;
  #sort = { column: 0, down: false };
  #at = null;

  constructor(store) {
    this.store = store;
    this.tiles = ["Apps", "CPU", "Memory", "Requests/s", "Connections", "Restarts"].map(tile);
    this.body = h("tbody");
    this.heads = COLUMNS.map(([name, kind], at) => h("th", { class: kind, scope: "col" },
      name ? h("button", { type: "button", onclick: () => this.#sortBy(at) }, name) : h("span", { class: "skip" }, "Trend")));
    this.search = h("input", { type: "search", placeholder: "Filter ( / )", "aria-label": "Filter apps", oninput: () => this.update() });
    this.none = h("div", { class: "empty", hidden: true });
    this.events = new Events(100);
    this.hosts = new Hosts();
    this.element = h("div", {},
      h("h1", { class: "skip" }, "All apps"),
      h("div", { class: "tiles" }, this.tiles.map((one) => one.element)),
      h("div", { class: "split wide" },
        h("div", { class: "hosts" },
          h("section", { class: "panel" },
            h("div", { class: "panel-head" }, h("h2", {}, "Apps"), h("span", { class: "space" }), this.search),
            h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, this.heads)), this.body)), this.none),
          this.hosts.element),
        this.events.element));
    this.#marked();
  }

  end() {}
  pause() {}
  focus() { this.search.focus(); }

  #sortBy(column) {
    this.#sort = { column, down: this.#sort.column === column ? !this.#sort.down : column > 1 };
    this.#marked();
    this.update();
  }

  #marked() {
    this.heads.forEach((head, at) => {
      if (at === this.#sort.column) head.setAttribute("aria-sort", this.#sort.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  /** Moves to the next app, or the one before. */
  move(by) {
    const rows = [...this.body.children];
    if (!rows.length) return;
    const at = rows.findIndex((row) => row === this.#at);
    this.#at?.classList.remove("at");
    this.#at = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
    this.#at.classList.add("at");
    this.#at.querySelector("a").focus();
  }

  update() {
    const { frame, events } = this.store;
    this.events.show(events);
    const words = this.search.value.toLowerCase();
    this.hosts.show(this.store.hosts, words);
    if (!frame?.up) return;
    const now = frame.at * 1000;
    this.#sums(frame.apps);
    const by = COLUMNS[this.#sort.column][3];
    const apps = frame.apps.filter((app) => `${app.name} ${app.namespace}`.toLowerCase().includes(words));
    apps.sort((a, b) => {
      const [one, other] = [by(a), by(b)];
      return (one < other ? -1 : one > other ? 1 : a.name < b.name ? -1 : 1) * (this.#sort.down ? -1 : 1);
    });
    const rows = apps.map((app) => this.#row(app, now));
    const fresh = this.#drawn !== frame.at;
    this.#drawn = frame.at;
    const focus = document.activeElement;
    if (rows.some((row, at) => this.body.children[at] !== row) || this.body.childElementCount !== rows.length) {
      this.body.replaceChildren(...rows);
      if (this.body.contains(focus)) focus.focus();
    }
    this.none.hidden = apps.length > 0;
    say(this.none, frame.apps.length ? "No app has such a name." : "No apps yet: `rpm start app.js -i 4`");
    for (const name of this.#rows.keys()) if (!frame.apps.some((app) => app.name === name)) { this.#rows.delete(name); this.store.past.delete(name); }
    // The canvases have a size when they are in the page.
    for (const app of apps) this.#sparks(app, fresh);
  }

  #sums(apps) {
    const sum = (of) => apps.map(of).filter((value) => value !== null && value !== undefined).reduce((a, b) => a + b, 0);
    const total = sum((app) => app.processes.length);
    const served = apps.some((app) => app.figures.requests != null);
    const failed = sum((app) => app.figures.errors);
    const values = [
      [String(apps.length), `${sum(online)} of ${total} instances online`],
      [percent(sum((app) => app.figures.cpu)), "of one CPU"],
      [bytes(sum((app) => app.figures.memory)), ""],
      [served ? count(sum((app) => app.figures.requests)) : "–", served ? `${count(failed)} failed (5xx)` : "not measured"],
      [count(sum((app) => app.figures.connections)), `${count(sum((app) => app.figures.queue))} wait to be accepted`],
      [count(sum(restarts)), ""],
    ];
    values.forEach(([value, more], at) => { say(this.tiles[at].value, value); say(this.tiles[at].more, more); });
  }

  #row(app, now) {
    let row = this.#rows.get(app.name);
    if (!row) {
      const href = `#/app/${encodeURIComponent(app.name)}`;
      row = h("tr", { class: "link", onclick: (event) => { if (!event.target.closest("a")) location.hash = href; } },
        COLUMNS.map(([, kind], at) => h("td", { class: kind },
          at === 0 ? h("a", { href }, app.name)
            : at === 1 ? h("span", { class: "state" })
              : at === 4 ? h("canvas", { class: "spark", role: "img", "aria-label": `CPU of ${app.name}, two minutes` })
                : at === 7 ? h("canvas", { class: "spark", role: "img", "aria-label": `Requests of ${app.name}, two minutes` }) : "")));
      this.#rows.set(app.name, row);
      this.#load(app.name);
    }
    setState(row.children[1].firstChild, stateOf(app));
    COLUMNS.forEach(([, , print], at) => { if (print) say(row.children[at], print(app, now)); });
    return row;
  }

  /** The two minutes before the page was opened. */
  async #load(name) {
    if (this.store.past.has(name)) return;
    const past = { at: 0, cpu: [], requests: [] };
    this.store.past.set(name, past);
    const before = await history(name, SPARK, SPARK, ["cpu", "requests"]).catch(() => null);
    if (!before) return;
    for (const figure of ["cpu", "requests"]) {
      const points = before.figures[figure].values.map((value, at) => [before.from + at * before.step, value]);
      const first = past[figure][0]?.[0] ?? Infinity;
      past[figure] = [...points.filter(([at]) => at < first), ...past[figure]];
    }
  }

  #sparks(app, fresh) {
    const past = this.store.past.get(app.name);
    const { at } = this.store.frame;
    const row = this.#rows.get(app.name);
    if (past.at === at && !fresh) return;
    if (past.at !== at) {
      past.at = at;
      for (const figure of ["cpu", "requests"]) {
        past[figure] = past[figure].filter(([moment]) => moment > at - SPARK && moment < at);
        past[figure].push([at, app.figures[figure] ?? null]);
      }
    }
    sparkline(row.children[4].firstChild, past.cpu, at, SPARK);
    sparkline(row.children[7].firstChild, past.requests, at, SPARK, "--series-3");
  }
}
