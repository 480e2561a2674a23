// Who watches and downloads now; an operator ends one.

import { call, get, poll } from "../api.js";
import { badge, choice, h, heading, setText } from "../dom.js";
import { bits, bytes, count, duration, position, text } from "../format.js";
import { Table } from "../table.js";

const RETRY_MS = 1500;
const ROWS_MAX = 200;
const STATES = { playing: "good", sending: "good", waiting: "warn", paused: "warn" };

export function viewers(main, page) {
  let kind = "";
  let match = "";
  const summary = h("p", { class: "lead" }, "…");
  const search = h("input", { type: "search", placeholder: "Address, object, agent …", "aria-label": "Search viewers", maxlength: "200" });
  const table = new Table({
    caption: "Viewers",
    empty: "No viewer matches now. HTTP viewers appear with their next request.",
    key: (row) => row.id,
    sort: "rate",
    onsort: () => reading.now(),
    columns: [
      { label: "Object", isHead: true, kind: "long", sort: "object", text: (row) => text(row.object || row.site) },
      { label: "State", isLive: true, node: state },
      { label: "Address", sort: "address", text: (row) => (row.country ? `${row.address} (${row.country})` : row.address) },
      { label: "Over", text: (row) => row.protocol },
      { label: "Distribution", text: (row) => text(row.distribution) },
      { label: "Position", kind: "number", sort: "position_s", text: (row) => position(row.position_s) },
      { label: "Rate", kind: "number", sort: "rate", text: (row) => bits(row.rate) },
      { label: "Sent", kind: "number", sort: "sent_bytes", text: (row) => bytes(row.sent_bytes) },
      { label: "For", kind: "number", sort: "age_s", text: (row) => duration(row.age_s) },
      { label: "Agent", kind: "long", text: (row) => text(row.agent) },
      ...(page.isOperator ? [{ label: "", kind: "actions", node: endButton }] : []),
    ],
  });

  function state(row) {
    const own = badge(row.state, STATES[row.state] || "plain");
    return row.retiring ? h("span", {}, own, " ", badge("retiring worker", "plain")) : own;
  }

  function endButton(row) {
    return h(
      "button",
      { type: "button", class: "danger small", "aria-label": `End ${row.object || row.id} for ${row.address}`, onclick: () => end(row) },
      "End",
    );
  }

  async function end(row) {
    const sentence =
      row.kind === "rtmp"
        ? `The session of ${row.address} ends at once. The player may come again.`
        : `The responses to ${row.address} are cut before their end. The client may come again.`;
    if (!(await page.confirm(`End ${row.object || row.id}?`, sentence, "End this viewer"))) return;
    try {
      await call("DELETE", `/viewers/${encodeURIComponent(row.id)}`);
      page.notify(`${row.address} was ended.`);
    } catch (error) {
      page.notify(`Not ended: ${error.message}.`, "bad");
    }
    reading.now();
  }

  async function read(signal) {
    const sort = `${table.isDescending ? "-" : ""}${table.sort}`;
    const query = new URLSearchParams({ sort, limit: String(ROWS_MAX) });
    if (kind) query.set("kind", kind);
    if (match) query.set("match", match);
    const document_ = await get(`/viewers?${query}`, signal);
    table.update(document_.rows);
    const shown = document_.rows.length;
    const parts = [`${count(document_.rtmp)} over RTMP, ${count(document_.http)} over HTTP`];
    if (document_.matching > shown) parts.push(`the first ${count(shown)} of ${count(document_.matching)} are shown`);
    if (document_.left_off) parts.push(`${count(document_.left_off)} more than an edge lists`);
    setText(summary, `${parts.join("; ")}.`);
    return document_.next_look_s * 1000;
  }

  search.addEventListener("input", () => {
    match = search.value.trim();
    reading.now();
  });
  const kinds = choice("Kind of viewers", [["", "All"], ["rtmp", "RTMP"], ["http", "HTTP"]], kind, (value) => {
    kind = value;
    reading.now();
  });
  const head = heading("Viewers", "", search, kinds);
  head.firstElementChild.append(summary);
  main.append(head, h("section", { class: "card", "aria-label": "Viewers" }, table.element));
  const reading = poll(read, RETRY_MS);
  return () => reading.stop();
}
