// Where objects come from, and whether it answers.

import { get } from "../api.js";
import { badge, h, heading } from "../dom.js";
import { text } from "../format.js";
import { Table } from "../table.js";
import { unavailable } from "./unavailable.js";

const STATES = { up: "good", trial: "warn", down: "bad" };
const MEANING = { up: "up", trial: "on trial", down: "down" };

export function origins(main, page) {
  const table = new Table({
    caption: "Origins",
    empty: "The config file declares no origins.",
    key: (row) => row.name,
    columns: [
      { label: "Name", isHead: true, text: (row) => row.name },
      { label: "State", isLive: true, node: (row) => (row.state ? badge(MEANING[row.state] || row.state, STATES[row.state] || "plain") : badge("no reports yet", "plain")) },
      { label: "Type", text: (row) => text(row.type) },
      { label: "Place", kind: "long", text: (row) => text(row.place) },
      { label: "Serves", kind: "long", text: (row) => text((row.distributions || []).join(", ")) },
      { label: "Groups", text: (row) => text((row.groups || []).join(", ")) },
    ],
  });
  let declared = new Map();
  let states = new Map();

  function show() {
    const names = new Set([...declared.keys(), ...states.keys()]);
    table.update([...names].sort().map((name) => ({ name, ...declared.get(name), ...states.get(name) })));
  }

  main.append(
    heading("Origins", "An origin that fails again and again is left out of its group until a trial succeeds."),
    h("section", { class: "card", "aria-label": "Origins" }, table.element),
  );
  get("/origins")
    .then((document_) => {
      declared = new Map(document_.origins.map((one) => [one.name, one]));
      show();
    })
    .catch((error) => unavailable(main, error, "the list of origins"));
  return page.status.subscribe((document_) => {
    if (!document_) return;
    states = new Map((document_.origins || []).map((one) => [one.name, one]));
    show();
  });
}
