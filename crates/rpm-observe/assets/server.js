// What the server is asked. Every request carries both secrets of the session: the cookie, which the browser sends, and the key, which only
// this page has.

const KEY = "rpm-key";

/** The session has ended. */
export class SignedOut extends Error {}

function headers(more = {}) {
  return { "x-rpm-key": localStorage.getItem(KEY) ?? "", ...more };
}

async function checked(response) {
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const error = response.status === 401 ? new SignedOut(said.error) : new Error(said.error ?? `HTTP ${response.status}`);
  error.hint = said.hint;
  error.lines = said.last_lines;
  throw error;
}

async function enter(path, what) {
  const response = await checked(await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(what),
  }));
  localStorage.setItem(KEY, (await response.json()).key);
}

/** Opens a session by the link in the address, which is taken out of it. */
export const login = (link) => enter("/dashboard/login", { link });

/** Opens a session by a name and a password. */
export const signIn = (user, password) => enter("/dashboard/password", { user, password });

/** Whether somebody may sign in with a password. */
export async function hasPasswords() {
  return (await (await checked(await fetch("/dashboard/login"))).json()).passwords;
}

export async function logout() {
  await checked(await fetch("/dashboard/logout", { method: "POST", headers: headers() }));
  localStorage.removeItem(KEY);
}

export async function session() {
  return (await checked(await fetch("/dashboard/session", { headers: headers() }))).json();
}

/** Series of an app from `seconds` ago until now, of these figures, with `durations` how long answers took besides; null where nothing is recorded of it. */
export async function history(app, seconds, points, figures, durations = false) {
  // The present second is one more.
  const asked = new URLSearchParams({ app, from: `-${seconds}s`, points: points + 1, figure: figures.join(","), durations });
  return (await checked(await fetch(`/dashboard/history?${asked}`, { headers: headers() }))).json();
}

/** Reads lines of JSON until the answer ends. */
async function read(response, got) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) got(JSON.parse(line));
  }
  if (rest.trim()) got(JSON.parse(rest));
}

const pause = (ms, signal) => new Promise((done) => {
  const timer = setTimeout(over, ms);
  function over() { clearTimeout(timer); signal.removeEventListener("abort", over); done(); }
  signal.addEventListener("abort", over);
});

/** An answer that brings nothing for so long has broken: there is a frame every second. */
const SILENCE_MS = 15_000;

/** Follows an answer of lines, again and again when it ends, until the signal. `state(false, error)` says that there is none. */
export async function follow(path, got, { signal, state }) {
  let wait = 500;
  while (!signal.aborted) {
    const one = new AbortController();
    const end = () => one.abort();
    signal.addEventListener("abort", end);
    let timer = setTimeout(end, SILENCE_MS);
    try {
      const response = await checked(await fetch(path(), { headers: headers(), signal: one.signal }));
      await read(response, (line) => {
        clearTimeout(timer);
        timer = setTimeout(end, SILENCE_MS);
        wait = 500;
        got(line);
      });
      state(false, new Error("the connection has ended"));
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof SignedOut) throw error;
      state(false, error);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
    }
    await pause(wait, signal);
    wait = Math.min(wait * 2, 8000);
  }
}

/** Has the daemon do something; `step` gets each step of it. Returns its outcome, or throws with the daemon's words. */
export async function act(what, step) {
  const response = await checked(await fetch("/dashboard/actions", {
    method: "POST",
    headers: headers({ "content-type": "application/json" }),
    body: JSON.stringify(what),
  }));
  let last = null;
  await read(response, (line) => { last = line; if (line.step) step(line.step); });
  if (last?.failed) {
    throw Object.assign(new Error(last.failed.error), { hint: last.failed.hint, lines: last.failed.last_lines });
  }
  if (!last?.done) throw new Error("the daemon has ended before it said how it went; the list shows it");
  return last.done;
}
