// What is served, by which rules, and how much of it now.

import { get } from "../api.js";
import { badge, h, heading } from "../dom.js";
import { bits, percent, perSecond, text } from "../format.js";
import { Table } from "../table.js";
import { unavailable } from "./unavailable.js";

export function distributions(main, page) {
  let declared = [];
  let rates = new Map();
  const table = new Table({
    caption: "Distributions",
    empty: "No distribution is declared, in the config file or through the API.",
    key: (row) => row.id,
    columns: [
      { label: "Id", isHead: true, text: (row) => row.id },
      { label: "State", isLive: true, node: (row) => badge(row.enabled ? "enabled" : "disabled", row.enabled ? "good" : "plain") },
      { label: "Type", text: (row) => row.type },
      { label: "Hosts", kind: "long", text: (row) => row.aliases.map((one) => (one === "*" ? "any" : one)).join(", ") },
      { label: "Origin", text: (row) => row.origin },
      { label: "Rules", kind: "long", text: rulesOf },
      { label: "Declared", text: (row) => (row.source === "api" ? "API" : "config") },
      { label: "Requests", kind: "number", text: (row) => perSecond(rates.get(row.id)?.requests) },
      { label: "Sent", kind: "number", text: (row) => bits(rates.get(row.id)?.bytes) },
      { label: "From the cache", kind: "number", text: (row) => hitRatio(rates.get(row.id)) },
    ],
  });
  main.append(
    heading("Distributions", "Rates are those of the last minute."),
    h("section", { class: "card", "aria-label": "Distributions" }, table.element),
  );
  get("/distributions")
    .then((document_) => {
      declared = document_.distributions;
      table.update(declared);
    })
    .catch((error) => unavailable(main, error, "the list of distributions"));
  return page.status.subscribe((document_) => {
    if (!document_) return;
    rates = new Map((document_.distributions || []).map((one) => [one.id, one]));
    table.update(declared);
  });
}

function rulesOf(row) {
  const rules = [];
  if (row.applications.length) rules.push(`applications ${row.applications.join(", ")}`);
  if (row.behaviors) rules.push(`${row.behaviors} behaviors`);
  if (row.signed) rules.push("signed");
  if (row.countries) rules.push(`countries ${row.countries}`);
  return text(rules.join("; "));
}

function hitRatio(rate) {
  return percent(rate && rate.bytes ? rate.hit_bytes / rate.bytes : null);
}
