// Writes that wait for their origin, and those that it has refused.

import { call, get, poll } from "../api.js";
import { badge, h, heading, setText } from "../dom.js";
import { bytes, count, duration, text } from "../format.js";
import { Table } from "../table.js";
import { unavailable } from "./unavailable.js";

const PAUSE_MS = 2000;
const STATES = { queued: "plain", sending: "good", conflict: "bad", failed: "bad" };
const DEAD = new Set(["conflict", "failed"]);

export function writes(main, page) {
  const summary = h("p", { class: "lead" }, "…");
  const table = new Table({
    caption: "Writes",
    empty: "No write waits. Behaviors with write = \"back\" queue writes here.",
    key: (row) => `${row.serial}-${DEAD.has(row.state)}`,
    columns: [
      { label: "Object", isHead: true, kind: "long", text: (row) => `${row.method} ${row.object}` },
      { label: "State", isLive: true, node: (row) => badge(row.state, STATES[row.state] || "plain") },
      { label: "Origin", text: (row) => row.origin },
      { label: "Size", kind: "number", text: (row) => bytes(row.size_bytes) },
      { label: "Age", kind: "number", text: (row) => duration(row.age_s) },
      { label: "Tries", kind: "number", text: (row) => count(row.attempts) },
      { label: "Next try", kind: "number", text: (row) => (row.due_in_s === null ? "–" : `in ${duration(row.due_in_s)}`) },
      { label: "Problem", kind: "long", text: (row) => text(row.problem) },
      ...(page.isOperator ? [{ label: "", kind: "actions", node: buttons }] : []),
    ],
  });

  function buttons(row) {
    if (!DEAD.has(row.state)) return h("span");
    const name = `${row.method} ${row.object}`;
    return h(
      "span",
      { class: "buttons" },
      h("button", { type: "button", class: "quiet small", "aria-label": `Retry ${name}`, onclick: () => act(row, "Retry") }, "Retry"),
      h("button", { type: "button", class: "danger small", "aria-label": `Discard ${name}`, onclick: () => act(row, "Discard") }, "Discard"),
    );
  }

  async function act(row, verb) {
    const isRetry = verb === "Retry";
    const sentence = isRetry
      ? "It is sent without its conditions, and overwrites the origin's object."
      : "The write and its bytes are deleted. The origin keeps what it has.";
    if (!(await page.confirm(`${verb} ${row.method} ${row.object}?`, sentence, `${verb} this write`))) return;
    try {
      if (isRetry) await call("POST", `/writes/${row.serial}/retry?unconditional=1`);
      else await call("DELETE", `/writes/${row.serial}`);
      page.notify(isRetry ? "The write is queued again." : "The write is deleted.");
    } catch (error) {
      page.notify(`${error.message}.`, "bad");
    }
    reading.now();
  }

  async function read(signal) {
    try {
      const document_ = await get("/writes", signal);
      const states = document_.by_state;
      const waiting = states.queued + states.sending;
      const refused = states.conflict + states.failed;
      setText(
        summary,
        `${count(waiting)} waiting, ${count(refused)} refused for good, ${bytes(document_.held_bytes)} on disk; ${count(document_.done)} of ${count(document_.accepted)} accepted writes are done.`,
      );
      table.update(document_.rows);
    } catch (error) {
      if (error.status !== 404) throw error;
      reading.stop();
      unavailable(main, error, "queued writes");
    }
  }

  const head = heading("Writes", "");
  head.firstElementChild.append(summary);
  main.append(head, h("section", { class: "card", "aria-label": "Writes" }, table.element));
  const reading = poll(read, PAUSE_MS);
  return () => reading.stop();
}
