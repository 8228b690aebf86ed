// What can be done to an app: asked for in a dialog, and told step by step.

import { h, say } from "./dom.js";
import { act } from "./server.js";

const dialog = () => document.getElementById("dialog");

/** Opens the dialog with this content. */
export function open(...content) {
  const box = dialog();
  box.replaceChildren(...content);
  if (!box.open) box.showModal();
}

export function close() { dialog().close(); }

/** Each action: its name, what it does to the app, the word on the button. */
const ACTS = {
  reload: ["Reload", "Starts a new worker for each, waits until it is ready, and lets the old one finish. No request is lost.", "Reload"],
  rollback: ["Roll back", "Brings back what served before the present generation. No request is lost.", "Roll back"],
  restart: ["Restart", "Stops all workers and starts them. Requests that come meanwhile wait or fail; a reload loses none.", "Restart"],
  start: ["Start", "Starts what is stopped.", "Start"],
  stop: ["Stop", "Ends all workers when they have finished what they are answering. The app is down then.", "Stop"],
  scale: ["Scale", "New workers are started, or those that are too many finish what they are answering and end.", "Scale"],
  trigger: ["Run the action", "Every instance runs it, and its answer is shown.", "Run"],
};

/** Asks whether to do it, does it, and tells how it goes. */
export function confirm(what, app) {
  const [title, about, word] = ACTS[what.do];
  const steps = h("ul", { class: "steps", "aria-live": "polite" });
  const verdict = h("div", { class: "verdict", role: "status" });
  const hint = h("p", { class: "hint" });
  const cancel = h("button", { type: "button", onclick: close }, "Cancel");
  const go = h("button", { type: "submit", class: "primary" }, word);
  const number = what.do === "scale" && h("input", {
    type: "number", min: 0, max: 1000, step: 1, required: true, value: app.processes.length, "aria-label": "Number of instances",
  });
  const form = h("form", { method: "dialog" },
    h("h2", { id: "dialog-title" }, `${title}${what.action ? ` ${what.action}` : ""}: ${app.name}`),
    h("p", { class: "muted" }, about),
    number && h("p", {}, h("label", {}, "Instances ", number)),
    steps, verdict, hint, h("div", { class: "row" }, cancel, go));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    say(verdict, "…");
    say(cancel, "Close");
    const request = { ...what, app: app.name, ...(number ? { count: number.value } : {}) };
    try {
      const done = await act(request, (step) => told(step, steps));
      verdict.className = "verdict good";
      say(verdict, done.answers ? answers(done.answers) : "Done.");
      say(hint, (done.notes ?? []).join("\n"));
      go.hidden = true;
      cancel.focus();
    } catch (error) {
      verdict.className = "verdict bad";
      say(verdict, error.message);
      say(hint, [error.hint, ...(error.lines ?? [])].filter(Boolean).join("\n"));
      go.disabled = false;
    }
  });
  open(form);
  (number || go).focus();
}

function told({ id, pid, to }, steps) {
  steps.append(h("li", {}, h("span", {}, `instance ${id}`), h("span", { class: "muted" }, `pid ${pid}`), h("span", {}, to)));
  steps.lastChild.scrollIntoView({ block: "nearest" });
}

function answers(list) {
  return list.map((one) => `${one.id ?? ""}: ${JSON.stringify(one.answer ?? one.return ?? one)}`).join("\n") || "Done.";
}
