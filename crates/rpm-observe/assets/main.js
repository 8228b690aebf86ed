// The page: who looks at it, which view is shown, and the connection to the server.

import { h, say, setState } from "./dom.js";
import { SignedOut, follow, login, logout, session } from "./server.js";
import { Welcome } from "./welcome.js";
import { Overview } from "./overview.js";
import { App } from "./app.js";
import { close, open } from "./actions.js";

const $ = (id) => document.getElementById(id);
/** Events that are kept. */
const EVENTS = 1000;

const store = { frame: null, events: [], past: new Map(), hosts: new Map(), role: "viewer" };
let view = null;
let connection = null;
/** When the last frame came. */
let heard = 0;

/** Shows something that went wrong, for a while. */
function toast(text) {
  const box = h("div", { class: "panel toast" }, text);
  $("toasts").append(box);
  setTimeout(() => box.remove(), 8000);
}

function got(line) {
  if (line.host) { store.hosts.set(line.host, line); schedule(); return; }
  if (line.log) { view?.logs?.add(line.log); return; }
  if (line.logs !== undefined) { view?.logs?.trouble(line.logs); return; }
  if (line.reset) store.events = [];
  if (line.event) {
    store.events.push(line.event);
    if (store.events.length > EVENTS) store.events.splice(0, store.events.length - EVENTS);
  }
  if (line.up !== undefined) {
    heard = performance.now();
    if (line.up) store.frame = line;
    setState($("link-state"), line.up ? ["good", "live"] : ["bad", `no answer: ${line.why}`]);
  }
  schedule();
}

/** Old figures must not look like those of now. */
setInterval(() => {
  if (connection && !document.hidden && performance.now() - heard > 5000) setState($("link-state"), ["bad", "no news"]);
}, 1000);

let drawing = 0;

/** However much comes, the page is drawn once for each frame of the screen. */
function schedule() {
  drawing ||= requestAnimationFrame(() => { drawing = 0; view?.update(); });
}

/** Begins the connection of this view. Nobody looks at a page in the background: it asks for nothing. */
function connect() {
  connection?.abort();
  connection = null;
  view?.pause(document.hidden);
  if (document.hidden) { setState($("link-state"), ["", "paused"]); return; }
  connection = new AbortController();
  heard = performance.now();
  const path = () => {
    view?.logs?.begin();
    const asked = new URLSearchParams();
    if (view?.logs) asked.set("logs", view.logs.app);
    if (view?.hosts) asked.set("hosts", true);
    if (store.events.length) asked.set("after", store.events.at(-1).seq);
    return `/dashboard/live?${asked}`;
  };
  follow(path, got, {
    signal: connection.signal,
    state: (works, error) => { if (!works) setState($("link-state"), ["bad", error.message]); },
  }).catch(ended);
}

function ended(error) {
  if (!(error instanceof SignedOut)) { toast(error.message); return; }
  connection?.abort();
  connection = null;
  view?.end();
  view = null;
  Object.assign(store, { frame: null, events: [], past: new Map(), hosts: new Map() });
  welcome(error.message);
}

/** The app that an address names, if it names one. */
function named(hash) {
  try {
    return decodeURIComponent(hash.match(/^#\/app\/(.+)$/)?.[1] ?? "");
  } catch {
    return "";
  }
}

function route() {
  view?.end();
  const name = named(location.hash);
  view = name ? new App(store, name) : new Overview(store);
  document.title = name ? `${name} – rpm` : "rpm";
  $("view").replaceChildren(view.element);
  scrollTo(0, 0);
  view.start?.();
  connect();
  view.update();
}

/** A link was put into the address of a page that is open, or another view is wanted. */
function moved() {
  if (/^#link=/.test(location.hash)) location.reload();
  else if (view && /^(#\/|$)/.test(location.hash)) route();
}

async function welcome(why) {
  setState($("link-state"), ["", ""]);
  $("sign-out").hidden = true;
  say($("host"), "");
  document.title = "Sign in – rpm";
  $("view").replaceChildren(await Welcome(why, enter));
}

const KEYS = [["/", "search"], ["j k", "next app, app before"], ["Enter", "open the app"], ["Esc", "back to all apps"],
  ["r", "reload"], ["s", "scale"], ["t", "dark or light"], ["?", "these keys"]];

function help() {
  open(h("h2", { id: "dialog-title" }, "Keys"), h("dl", {}, KEYS.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    h("div", { class: "row" }, h("button", { type: "button", class: "primary", onclick: close }, "Close")));
}

function theme(next) {
  document.documentElement.dataset.theme = next;
  view?.group?.draw();
  schedule();
}

function otherTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("rpm-theme", next);
  theme(next);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("dialog").open) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const keys = {
    "/": () => view?.focus(), "?": help, t: otherTheme, j: () => view?.move(1), k: () => view?.move(-1),
    r: () => view?.press?.("reload"), s: () => view?.press?.("scale"), Escape: () => { if (view) location.hash = "#/"; },
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
}

async function begin() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  theme(localStorage.getItem("rpm-theme") ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => { if (!localStorage.getItem("rpm-theme")) theme(dark.matches ? "dark" : "light"); });
  $("theme").addEventListener("click", otherTheme);
  $("help").addEventListener("click", help);
  $("sign-out").addEventListener("click", () => logout().then(() => location.reload(), (error) => toast(error.message)));
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("view").focus(); });
  addEventListener("keydown", pressed);
  addEventListener("hashchange", moved);
  const link = location.hash.match(/^#link=([0-9a-f]+)$/);
  let why = "";
  if (link) {
    // It is out of the address, and of the browser's history, before anything else.
    window.history.replaceState(null, "", "/");
    await login(link[1]).catch((error) => { why = error.message; });
  }
  document.addEventListener("visibilitychange", () => { if (view) connect(); });
  addEventListener("resize", schedule);
  enter(why);
}

/** Shows the page to whoever has a session, and to others how to get one. */
async function enter(why = "") {
  try {
    const known = await session();
    store.role = known.role;
    say($("host"), `${known.host}${known.role === "viewer" ? " (read only)" : ""}`);
    $("sign-out").hidden = false;
  } catch (error) {
    if (error instanceof SignedOut) { welcome(why); return; }
    setState($("link-state"), ["bad", error.message]);
    setTimeout(() => location.reload(), 3000);
    return;
  }
  route();
}

begin();
