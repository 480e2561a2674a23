// Invalidating cached objects: a form, and what was invalidated.

import { call, get } from "../api.js";
import { badge, card, h, heading, labelled, setText } from "../dom.js";
import { text, time } from "../format.js";
import { Table } from "../table.js";
import { unavailable } from "./unavailable.js";

export function invalidate(main, page) {
  const chosen = h("select", { required: true });
  const items = h("textarea", { rows: "4", spellcheck: "false", autocapitalize: "none", placeholder: "/news/*\n/index.html" });
  const tags = h("input", { spellcheck: "false", autocapitalize: "none" });
  const soft = h("input", { type: "checkbox", id: "soft" });
  const revoke = h("input", { type: "checkbox", id: "revoke" });
  const error = h("p", { class: "error", role: "alert" });
  const button = h("button", { class: "primary" }, "Invalidate");
  const table = new Table({
    caption: "Invalidations",
    empty: "Nothing was invalidated in this distribution.",
    key: (row) => row.id,
    columns: [
      { label: "Time", isHead: true, text: (row) => time(row.created_s) },
      { label: "What", kind: "long", text: (row) => row.items.map((one) => (one.startsWith("#") ? `tag ${one.slice(1)}` : one)).join(", ") },
      { label: "Kind", node: (row) => h("span", {}, badge(row.soft ? "soft" : "hard", "plain"), row.revoke ? badge("revoked", "warn") : null) },
      { label: "Id", text: (row) => row.id },
      { label: "Reference", kind: "long", text: (row) => text(row.caller_reference) },
    ],
  });

  async function list() {
    if (!chosen.value) return;
    const document_ = await get(`/invalidations?distribution=${encodeURIComponent(chosen.value)}`);
    table.update(document_.invalidations);
  }

  const form = h(
    "form",
    { class: "form" },
    labelled("Paths", items, "One a line, as in a URL; * is any text, anywhere. /* is everything."),
    labelled("Cache tags", tags, "Separated by commas."),
    h("div", { class: "check" }, soft, h("label", { for: "soft" }, "Soft: serve it stale while it is fetched again")),
    h("div", { class: "check" }, revoke, h("label", { for: "revoke" }, "Also end responses and plays that run")),
    error,
    button,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = {
      distribution: chosen.value,
      items: lines(items.value, "\n"),
      tags: lines(tags.value, ","),
      soft: soft.checked,
      revoke: revoke.checked,
      wait: true,
    };
    setText(error, "");
    if (!body.items.length && !body.tags.length) {
      setText(error, "Name at least one path or tag.");
      items.focus();
      return;
    }
    button.disabled = true;
    try {
      const result = await call("POST", "/invalidations", body);
      const isEverywhere = result.applied !== false;
      page.notify(
        isEverywhere ? `${result.id} is in effect everywhere.` : `${result.id} is in effect, but not yet applied everywhere: ${(result.missing || ["see the log"]).join("; ")}.`,
        isEverywhere ? "good" : "warn",
      );
      form.reset();
      await list();
    } catch (problem) {
      setText(error, `${problem.message}.`);
    }
    button.disabled = false;
  });

  main.append(
    heading("Invalidate", "What is invalidated is fetched again from its origin at the next request."),
    h("section", { class: "card", "aria-label": "Distribution" }, labelled("Distribution", chosen)),
  );
  if (page.isOperator) main.append(card("New invalidation", form));
  else main.append(h("p", { class: "empty card" }, "A reader cannot invalidate. Log in as an operator for the form."));
  main.append(card("Invalidations so far", table.element));
  chosen.addEventListener("change", () => list().catch((problem) => page.notify(`${problem.message}.`, "bad")));
  get("/distributions")
    .then((document_) => {
      chosen.append(...document_.distributions.map((one) => h("option", { value: one.id }, one.id)));
      return list();
    })
    .catch((problem) => unavailable(main, problem, "the list of distributions"));
  return null;
}

function lines(value, separator) {
  return value.split(separator).map((one) => one.trim()).filter(Boolean);
}
