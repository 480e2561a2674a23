// The form to log in.

import { call } from "../api.js";
import { h, labelled, setText } from "../dom.js";

export function loginView(main, done) {
  const user = h("input", { name: "user", autocomplete: "username", required: true, autocapitalize: "none", spellcheck: "false" });
  const password = h("input", { name: "password", type: "password", autocomplete: "current-password", required: true });
  const error = h("p", { class: "error", role: "alert" });
  const button = h("button", { class: "primary" }, "Log in");
  const form = h(
    "form",
    { class: "login card", "aria-labelledby": "login-title" },
    h("h1", { id: "login-title", tabindex: "-1" }, "Log in"),
    labelled("Name", user),
    labelled("Password", password),
    error,
    button,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    setText(error, "");
    try {
      await call("POST", "/login", { user: user.value, password: password.value });
      await done();
    } catch (problem) {
      setText(error, `${problem.message}.`);
      password.value = "";
      password.focus();
    }
    button.disabled = false;
  });
  main.replaceChildren(form);
  user.focus();
}
