// The logs of an app, live: bounded, paused by scrolling up, searched, and wrapped if wished.

import { clock, h, say } from "./dom.js";

/** Lines that are kept. */
const MOST = 4000;
/** Lines that are in the page: more would make it slow. */
const SHOWN = 1200;

export class Logs {
  #lines = [];
  #fresh = [];
  #missed = 0;
  #paused = false;
  #frame = 0;
  #words = "";

  constructor(app) {
    this.app = app;
    this.list = h("div", { class: "lines", tabindex: 0, role: "log", "aria-live": "off", "aria-label": `Logs of ${app}` });
    this.search = h("input", { type: "search", placeholder: "Search the logs", "aria-label": "Search the logs", oninput: () => this.#all() });
    this.only = h("select", { "aria-label": "Stream", onchange: () => this.#all() },
      h("option", { value: "" }, "out and err"), h("option", { value: "out" }, "out"), h("option", { value: "err" }, "err"));
    this.pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.#setPaused(!this.#paused) }, "Pause");
    this.wrap = h("input", { type: "checkbox", onchange: () => this.list.classList.toggle("wrap", this.wrap.checked) });
    this.note = h("span", { class: "muted", role: "status" });
    this.element = h("section", { class: "panel logs" },
      h("div", { class: "panel-head" }, h("h2", {}, "Logs"), this.search, this.only, h("label", {}, this.wrap, "wrap"), this.pause, this.note),
      this.list);
    this.list.addEventListener("scroll", () => {
      const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 30;
      if (!atEnd && !this.#paused) this.#setPaused(true);
      if (atEnd && this.#paused && this.#byScroll) this.#setPaused(false);
    });
    for (const kind of ["wheel", "touchmove", "keydown", "pointerdown"]) this.list.addEventListener(kind, () => { this.#byScroll = true; }, { passive: true });
  }

  #byScroll = false;

  end() { cancelAnimationFrame(this.#frame); }

  /** The connection begins again, with the last lines. */
  begin() {
    this.#lines = [];
    this.#fresh = [];
    if (!this.#paused) this.list.replaceChildren();
  }

  /** Why there are no logs; null: there are. */
  trouble(why) {
    if (why || !this.#paused) say(this.note, why ?? "");
  }

  focus() { this.search.focus(); }

  add(line) {
    this.#lines.push(line);
    if (this.#lines.length > MOST) this.#lines.splice(0, this.#lines.length - MOST);
    this.#fresh.push(line);
    if (this.#fresh.length > SHOWN) this.#fresh.splice(0, this.#fresh.length - SHOWN);
    this.#frame ||= requestAnimationFrame(() => { this.#frame = 0; this.#draw(); });
  }

  #setPaused(paused) {
    this.#paused = paused;
    if (!paused) this.#byScroll = false;
    this.pause.setAttribute("aria-pressed", String(paused));
    say(this.pause, paused ? "Follow" : "Pause");
    if (!paused) { this.#missed = 0; say(this.note, ""); this.#all(); }
  }

  #wanted(line) {
    return (!this.only.value || line.stream === this.only.value)
      && (!this.#words || line.line.toLowerCase().includes(this.#words));
  }

  #all() {
    this.#words = this.search.value.toLowerCase();
    this.#fresh = [];
    const wanted = this.#lines.filter((line) => this.#wanted(line));
    this.list.replaceChildren(...wanted.slice(-SHOWN).map((line) => this.#row(line)));
    if (this.#words) say(this.note, `${wanted.length} of ${this.#lines.length} lines`);
    if (!this.#paused) this.list.scrollTop = this.list.scrollHeight;
  }

  #draw() {
    const fresh = this.#fresh.filter((line) => this.#wanted(line));
    this.#fresh = [];
    if (this.#paused) {
      this.#missed += fresh.length;
      if (this.#missed) say(this.note, `${this.#missed} more below`);
      return;
    }
    this.list.append(...fresh.map((line) => this.#row(line)));
    while (this.list.childElementCount > SHOWN) this.list.firstChild.remove();
    this.list.scrollTop = this.list.scrollHeight;
  }

  #row(line) {
    // Colours of terminals are left out.
    const text = line.line.replace(/\u001b\[[0-9;?]*[ -/]*[@-~]/g, "");
    const meta = `${line.time_ms ? clock(line.time_ms) : "        "} ${line.shared ? "*" : line.id} `;
    return h("div", { class: line.stream === "err" ? "err" : null }, h("span", { class: "meta" }, meta), ...this.#marked(text));
  }

  #marked(text) {
    if (!this.#words) return [text];
    const parts = [];
    const low = text.toLowerCase();
    let from = 0;
    for (let at = low.indexOf(this.#words); at >= 0; at = low.indexOf(this.#words, from)) {
      parts.push(text.slice(from, at), h("mark", {}, text.slice(at, at + this.#words.length)));
      from = at + this.#words.length;
    }
    return [...parts, text.slice(from)];
  }
}
