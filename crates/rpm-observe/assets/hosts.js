// Other machines: a table of the apps of each. More of an app is on that machine's own dashboard.

import { bytes, count, h, latency, percent, say, setState, stateOf } from "./dom.js";

const HEADS = [["App", "name"], ["State", ""], ["Instances", "number narrow-2"], ["CPU", "number"], ["Memory", "number"],
  ["Requests/s", "number narrow-1"], ["p99", "number narrow-2"]];

function figures(app) {
  const online = app.processes.filter((one) => one.status === "online").length;
  const { cpu, memory, requests, p99 } = app.figures;
  return [`${online}/${app.processes.length}`, percent(cpu), bytes(memory), count(requests), latency(p99)];
}

export class Hosts {
  #panels = new Map();
  element = h("div", { class: "hosts" });

  /** `hosts`: what each has sent last, by name. `words`: what an app's name contains. */
  show(hosts, words) {
    for (const [name, host] of hosts) {
      if (!this.#panels.has(name)) this.#panels.set(name, this.#panel(name, host.url));
      const panel = this.#panels.get(name);
      const { up, why, apps = [] } = host.frame;
      setState(panel.state, up ? ["good", "live"] : ["bad", `no answer: ${why ?? "it sends no figures"}`]);
      // What was seen last stays, with the reason why it is old.
      try {
        if (up) this.#rows(panel, host.url, apps.filter((app) => `${app.name} ${app.namespace}`.toLowerCase().includes(words)));
      } catch {
        setState(panel.state, ["bad", "its figures are not understood: is it another version?"]);
      }
    }
  }

  #panel(name, url) {
    const state = h("span", { class: "state" });
    const body = h("tbody");
    const link = url ? h("a", { href: url, target: "_blank", rel: "noreferrer" }, name) : name;
    this.element.append(h("section", { class: "panel" },
      h("div", { class: "panel-head" }, h("h2", {}, link), state),
      h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, HEADS.map(([text, kind]) => h("th", { class: kind, scope: "col" }, text)))), body))));
    return { state, body, rows: new Map() };
  }

  #rows(panel, url, apps) {
    const rows = apps.map((app) => {
      let row = panel.rows.get(app.name);
      if (!row) {
        const href = `${url.replace(/\/$/, "")}/#/app/${encodeURIComponent(app.name)}`;
        row = h("tr", {}, HEADS.map(([, kind], at) => h("td", { class: kind },
          at === 0 ? h("a", { href, target: "_blank", rel: "noreferrer" }, app.name) : at === 1 ? h("span", { class: "state" }) : "")));
        panel.rows.set(app.name, row);
      }
      setState(row.children[1].firstChild, stateOf(app));
      figures(app).forEach((text, at) => say(row.children[at + 2], text));
      return row;
    });
    for (const name of panel.rows.keys()) if (!apps.some((app) => app.name === name)) panel.rows.delete(name);
    if (rows.length !== panel.body.childElementCount || rows.some((row, at) => panel.body.children[at] !== row)) panel.body.replaceChildren(...rows);
  }
}
