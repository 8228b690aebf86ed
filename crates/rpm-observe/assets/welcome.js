// What somebody without a session sees: a form for a name and a password, if anybody has one, and where a link comes from.

import { h, say } from "./dom.js";
import { hasPasswords, signIn } from "./server.js";

const HINT = "The link opens once. With --read-only the session may look and not act.";

/** The panel. `why`: what went wrong with a link; `entered` is called when there is a session. */
export async function Welcome(why, entered) {
  const form = await hasPasswords().catch(() => false) && Form(entered);
  return h("section", { class: "panel welcome" },
    h("h1", {}, "Sign in"),
    form,
    h("p", {}, form ? "Or type this" : "Type this", " on the machine where the daemon runs, as its user, and open the link that it prints:"),
    h("pre", {}, "rpm dashboard"),
    h("p", { class: "muted" }, why || HINT));
}

function Form(entered) {
  const user = h("input", { id: "user", name: "user", autocomplete: "username", autocapitalize: "none", spellcheck: "false", required: true, maxlength: 64 });
  const password = h("input", { id: "password", name: "password", type: "password", autocomplete: "current-password", required: true });
  const button = h("button", { type: "submit", class: "primary" }, "Sign in");
  // It has its room before it says anything, so that nothing moves.
  const trouble = h("p", { class: "trouble", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    say(trouble, "");
    try {
      await signIn(user.value, password.value);
      entered();
    } catch (error) {
      say(trouble, error.message);
      password.select();
    } finally {
      button.disabled = false;
    }
  };
  return h("form", { class: "sign-in", onsubmit: submit },
    h("label", { for: "user" }, "User"), user,
    h("label", { for: "password" }, "Password"), password,
    trouble, button);
}
