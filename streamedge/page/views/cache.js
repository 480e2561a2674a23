// What is cached, and which parts of each object; pins, purges, and jobs on the whole cache.

import { call, get, poll } from "../api.js";
import { badge, card, h, heading, labelled, setText } from "../dom.js";
import { bytes, count, duration, percent, text } from "../format.js";
import { Table } from "../table.js";
import { Posters } from "./posters.js";
import { unavailable } from "./unavailable.js";

const PAGE = 100;
const JOBS_MS = 1500;
const WIDTH = 1000; // of a map, in its own units

export function cache(main, page) {
  let cursor = "";
  let objects = [];
  let reading = null; // AbortController of the search that runs
  const posters = new Posters();
  const summary = h("p", { class: "lead" });
  const search = h("input", { type: "search", placeholder: "Name, or a pattern with *", "aria-label": "Search the cache", maxlength: "500" });
  const origin = h("select", { "aria-label": "Origin" }, h("option", { value: "" }, "All origins"));
  const more = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => read() }, "Show more");
  const state = h("p", { class: "hint", role: "status" });
  const table = new Table({
    caption: "Cached objects",
    empty: "No cached object matches.",
    key: (row) => `${row.id} ${row.pinned}`,
    columns: [
      { label: "Object", isHead: true, kind: "object", node: (row) => objectOf(row, posters) },
      { label: "Cached", kind: "map-cell", isLive: true, node: mapOf },
      { label: "Size", kind: "number", text: (row) => bytes(row.size_bytes) },
      { label: "Here", kind: "number", text: (row) => share(row) },
      { label: "Age", kind: "number", text: (row) => duration(row.age_s) },
      { label: "Origin", text: (row) => text(row.origin) },
      { label: "Status", isLive: true, node: (row) => h("span", {}, String(row.status), row.pinned ? badge("pinned", "good") : null) },
      ...(page.isOperator ? [{ label: "", kind: "actions", node: buttons }] : []),
    ],
  });

  function buttons(row) {
    const verb = row.pinned ? "Unpin" : "Pin";
    return h(
      "span",
      { class: "buttons" },
      h("button", { type: "button", class: "quiet small", "aria-label": `${verb} ${row.name}`, onclick: () => pin(row, verb) }, verb),
      h("button", { type: "button", class: "danger small", "aria-label": `Purge ${row.name}`, onclick: () => purge(row) }, "Purge"),
    );
  }

  async function pin(row, verb) {
    try {
      const result = await call(row.pinned ? "DELETE" : "PUT", `/cache/${row.id}/pin`);
      objects = objects.map((one) => (one.id === row.id ? { ...one, pinned: result.pinned } : one));
      table.update(objects);
      page.notify(`${verb === "Pin" ? "Eviction leaves" : "Eviction may remove"} ${row.name}.`);
    } catch (error) {
      page.notify(`${error.message}.`, "bad");
    }
  }

  async function purge(row) {
    const sentence = "This edge drops it at once. Other edges keep theirs: an invalidation is for all of them.";
    if (!(await page.confirm(`Purge ${row.name}?`, sentence, "Purge this object"))) return;
    try {
      const result = await call("DELETE", `/cache/${row.id}`);
      objects = objects.filter((one) => one.id !== row.id);
      table.update(objects);
      page.notify(`${row.name} is purged; ${bytes(result.freed_bytes)} are free.`);
    } catch (error) {
      page.notify(`${error.message}.`, "bad");
    }
  }

  // Reads the next page; an empty one that does not end the cache is followed by the next.
  async function read(isNew = false) {
    if (reading) reading.abort();
    const own = new AbortController();
    reading = own;
    if (isNew) [cursor, objects] = ["", []];
    more.disabled = true;
    try {
      let added = 0;
      do {
        const query = new URLSearchParams({ limit: String(PAGE) });
        if (search.value.trim()) query.set("match", search.value.trim());
        if (origin.value) query.set("origin", origin.value);
        if (cursor) query.set("cursor", cursor);
        setText(state, "Searching …");
        const document_ = await get(`/cache?${query}`, own.signal);
        cursor = document_.cursor || "";
        const known = new Set(objects.map((one) => one.id));
        const fresh = document_.objects.filter((one) => !known.has(one.id));
        objects = objects.concat(fresh);
        added += fresh.length;
        table.update(objects);
      } while (cursor && added < PAGE);
      setText(state, cursor ? `${count(objects.length)} objects; there are more.` : `${count(objects.length)} objects.`);
    } catch (error) {
      if (error.name === "AbortError") return;
      setText(state, "");
      unavailable(main, error, "a map of its cache");
    }
    more.hidden = !cursor;
    more.disabled = false;
  }

  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => read(true), 300);
  });
  origin.addEventListener("change", () => read(true));
  get("/origins")
    .then((document_) => origin.append(...document_.origins.map((one) => h("option", { value: one.name }, one.name))))
    .catch(() => origin.remove());
  const head = heading("Cache", "", search, origin);
  head.firstElementChild.append(summary);
  const key = h(
    "p",
    { class: "key-line" },
    ...["cached", "filling", "unchecked"].map((one) => h("span", { class: `key ${one}` }, one)),
  );
  const jobs = jobsOf(page);
  main.append(head, h("section", { class: "card", "aria-label": "Cached objects" }, key, table.element, state, more), jobs.element);
  read(true);
  const unsubscribe = page.status.subscribe((document_) => {
    if (!document_ || !document_.cache) return;
    const { used_bytes, limit_bytes } = document_.cache;
    setText(summary, `${bytes(used_bytes)} of ${bytes(limit_bytes)} are used.`);
  });
  return () => {
    clearTimeout(timer);
    if (reading) reading.abort();
    unsubscribe();
    posters.stop();
    jobs.stop();
  };
}

function nameOf(row) {
  const kind = row.kind === "object" ? "" : ` (${row.kind})`;
  return `${row.name}${row.details.length ? ` ${row.details.join(" ")}` : ""}${kind}`;
}

function objectOf(row, posters) {
  const name = nameOf(row);
  return h("span", { class: "titled" }, posters.element(row), h("span", { class: "name", title: titleOf(row, name) }, name));
}

function titleOf(row, name) {
  return row.tags.length ? `${name}\nTags: ${row.tags.join(", ")}` : name;
}

function share(row) {
  if (!row.size_bytes) return bytes(row.cached_bytes);
  return row.cached_bytes >= row.size_bytes ? "all" : percent(row.cached_bytes / row.size_bytes);
}

// The object's bytes from left to right: what is here, what is being fetched, what is missing.
function mapOf(row) {
  const size = row.size_bytes || Math.max(0, ...row.ranges.map(([, end]) => end));
  const words = row.ranges.map(([start, end, state]) => `${state} ${start} to ${end}`);
  const label = size ? `Bytes here: ${words.join("; ") || "none"} of ${size}` : "An object without a body";
  const scale = size ? WIDTH / size : 0;
  return h(
    "svg:svg",
    { viewBox: `0 0 ${WIDTH} 10`, preserveAspectRatio: "none", class: "ranges", role: "img", "aria-label": label },
    h("svg:rect", { width: WIDTH, height: 10, class: "missing" }),
    ...row.ranges.map(([start, end, state]) =>
      h("svg:rect", {
        x: (start * scale).toFixed(2), width: Math.max(2, (end - start) * scale).toFixed(2), height: 10, class: state,
      }),
    ),
  );
}

// Jobs on the cache: verify all of it, or warm it with a list of paths.
function jobsOf(page) {
  const table = new Table({
    caption: "Jobs",
    empty: "No job has run since the edge was started.",
    key: (row) => `${row.id} ${row.state === "running"}`,
    columns: [
      { label: "Job", isHead: true, text: (row) => row.kind },
      { label: "State", isLive: true, node: (row) => badge(row.state, JOB_STATES[row.state] || "plain") },
      { label: "Progress", isLive: true, node: progressOf },
      { label: "Read", kind: "number", text: (row) => bytes(row.bytes) },
      { label: "Failed", kind: "number", text: (row) => count(row.failed) },
      { label: "Problems", kind: "long", text: (row) => text((row.problems || []).map(problemText).join("; ")) },
      ...(page.isOperator ? [{ label: "", kind: "actions", node: cancelButton }] : []),
    ],
  });

  function cancelButton(row) {
    if (row.state !== "running") return h("span");
    return h("button", { type: "button", class: "danger small", "aria-label": `Cancel ${row.kind}`, onclick: () => run("DELETE", `/jobs/${row.id}`) }, "Cancel");
  }

  async function run(method, path, body) {
    try {
      await call(method, path, body);
    } catch (error) {
      page.notify(`${error.message}.`, "bad");
    }
    reading.now();
  }

  const paths = h("textarea", { rows: "3", spellcheck: "false", placeholder: "/film.mp4" });
  const host = h("input", { spellcheck: "false", autocapitalize: "none", placeholder: "cdn.example.com" });
  const warm = h(
    "form",
    { class: "form" },
    labelled("Paths to warm the cache with", paths, "One a line, as in a URL."),
    labelled("Host", host, "Selects the distribution; may be empty where one serves any host."),
    h(
      "div",
      { class: "buttons" },
      h("button", { class: "primary" }, "Warm"),
      h("button", { type: "button", class: "quiet", onclick: () => run("POST", "/jobs", { kind: "verify" }) }, "Verify the whole cache"),
    ),
  );
  warm.addEventListener("submit", (event) => {
    event.preventDefault();
    const lines = paths.value.split("\n").map((one) => one.trim()).filter(Boolean);
    if (!lines.length) {
      paths.focus();
      return;
    }
    const body = { kind: "warm", paths: lines };
    if (host.value.trim()) body.host = host.value.trim();
    run("POST", "/jobs", body);
  });
  const element = card("Jobs", table.element, page.isOperator ? warm : null);
  const reading = poll(async (signal) => {
    try {
      const document_ = await get("/jobs", signal);
      table.update(document_.jobs || document_);
    } catch (error) {
      if (error.status !== 404) throw error;
      reading.stop();
      element.hidden = true;
    }
  }, JOBS_MS);
  return { element, stop: () => reading.stop() };
}

const JOB_STATES = { running: "warn", done: "good", failed: "bad", cancelled: "plain" };

function progressOf(row) {
  const done = count(row.done);
  if (!row.total) return h("span", {}, done);
  return h(
    "span",
    { class: "progress" },
    h("progress", { max: row.total, value: row.done, "aria-label": `Progress of ${row.kind}` }),
    `${done} of ${count(row.total)}`,
  );
}

function problemText(problem) {
  return typeof problem === "string" ? problem : Object.values(problem).join(": ");
}
