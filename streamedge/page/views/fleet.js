// The edges of the fleet: where they are, how they are, how far they have followed the shared log.

import { call, get, poll } from "../api.js";
import { badge, card, h, heading, setText } from "../dom.js";
import { count, text } from "../format.js";
import { Table } from "../table.js";
import { unavailable } from "./unavailable.js";

const PAUSE_MS = 2000;
const STATES = { up: "good", joining: "warn", draining: "warn", lost: "bad", gone: "bad", unknown: "warn" };
const SEVERITY = ["bad", "warn", "plain", "good"]; // the worst first
const [WIDTH, HEIGHT] = [720, 360];

export function fleet(main, page) {
  const summary = h("p", { class: "lead" }, "…");
  const map = h("div", { class: "map" });
  const body = h("div", { class: "cards" });
  let drawn = "";
  const table = new Table({
    caption: "Edges",
    empty: "The fleet has no edges yet.",
    key: (row) => `${row.name} ${row.role}`,
    columns: [
      { label: "Name", isHead: true, text: (row) => row.name },
      { label: "State", isLive: true, node: (row) => badge(row.state, STATES[row.state] || "plain") },
      { label: "Place", text: (row) => (row.location ? placeOf(row.location) : "–") },
      { label: "Lag", kind: "number", text: (row) => (row.lag === null ? "–" : count(row.lag)) },
      { label: "Load", kind: "number", text: (row) => (row.load === null ? "–" : count(row.load)) },
      { label: "Weight", kind: "number", text: (row) => text(row.weight) },
      { label: "Addresses", kind: "long", text: (row) => text(row.addresses.join(", ")) },
      ...(page.isOperator ? [{ label: "", kind: "actions", node: buttons }] : []),
    ],
  });

  function buttons(row) {
    const isDraining = row.role === "draining";
    const verb = isDraining ? "Undrain" : "Drain";
    return h(
      "span",
      { class: "buttons" },
      h("button", { type: "button", class: "quiet small", "aria-label": `${verb} ${row.name}`, onclick: () => act(row, verb) }, verb),
    );
  }

  async function act(row, verb) {
    const sentence =
      verb === "Drain"
        ? "New viewers are sent to other edges; what runs at this one finishes."
        : "Viewers come to this edge again.";
    if (!(await page.confirm(`${verb} ${row.name}?`, sentence, `${verb} ${row.name}`))) return;
    try {
      await call("POST", `/fleet/${encodeURIComponent(row.name)}/${verb.toLowerCase()}`);
      page.notify(`${row.name}: ${verb.toLowerCase()} is done.`);
    } catch (error) {
      page.notify(`${error.message}.`, "bad");
    }
    reading.now();
  }

  async function read(signal) {
    let document_;
    try {
      document_ = await get("/fleet", signal);
    } catch (error) {
      if (error.status !== 409 && error.status !== 404) throw error;
      reading.stop();
      setText(summary, "");
      body.replaceChildren();
      unavailable(body, error, "a fleet");
      return;
    }
    const engine = document_.engine_up ? "answers" : `does not answer (${document_.engine_problem || "no reason is known"})`;
    setText(summary, `This edge is ${document_.edge}, ${document_.state}. The engine ${document_.engine} ${engine}.`);
    table.update(document_.edges);
    const places = JSON.stringify(document_.edges.map((one) => [one.name, one.state, one.location]));
    if (places !== drawn) {
      drawn = places;
      map.replaceChildren(draw(document_.edges));
    }
  }

  const head = heading("Fleet", "");
  head.firstElementChild.append(summary);
  body.append(card("Map", map), card("Edges", table.element));
  main.append(head, body);
  const reading = poll(read, PAUSE_MS);
  return () => reading.stop();
}

function placeOf([latitude, longitude]) {
  const one = (value, positive, negative) => `${Math.abs(value).toFixed(1)}° ${value < 0 ? negative : positive}`;
  return `${one(latitude, "N", "S")}, ${one(longitude, "E", "W")}`;
}

// The edges on a plain grid of latitudes and longitudes (equirectangular).
function draw(edges) {
  const x = (longitude) => ((longitude + 180) / 360) * WIDTH;
  const y = (latitude) => ((90 - latitude) / 180) * HEIGHT;
  const lines = [];
  for (let longitude = -150; longitude < 180; longitude += 30) {
    lines.push(h("svg:line", { x1: x(longitude), x2: x(longitude), y1: 0, y2: HEIGHT, class: longitude ? "grid" : "axis" }));
  }
  for (let latitude = -60; latitude < 90; latitude += 30) {
    lines.push(h("svg:line", { y1: y(latitude), y2: y(latitude), x1: 0, x2: WIDTH, class: latitude ? "grid" : "axis" }));
  }
  const words = [0, 30, 60, -30, -60].map((latitude) =>
    h("svg:text", { x: 6, y: y(latitude) - 5, class: "degrees" }, latitude ? `${Math.abs(latitude)}° ${latitude < 0 ? "S" : "N"}` : "Equator"),
  );
  const marks = [...places(edges).values()].map(({ location: [latitude, longitude], edges: here }) => {
    const isRight = longitude > 120;
    const worst = SEVERITY.find((kind) => here.some((one) => (STATES[one.state] || "plain") === kind));
    return h(
      "svg:g",
      { class: `mark ${worst}` },
      h("svg:circle", { cx: x(longitude), cy: y(latitude), r: 6 }),
      h(
        "svg:text",
        { x: x(longitude) + (isRight ? -11 : 11), y: y(latitude) + 5, "text-anchor": isRight ? "end" : "start" },
        here.map((one) => one.name).join(", "),
      ),
    );
  });
  const names = edges.map((one) => `${one.name} ${one.state}`).join(", ");
  return h("svg:svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `Edges by place: ${names}` }, ...lines, ...words, ...marks);
}

// The edges by place, to a degree: those of one data centre have one mark.
function places(edges) {
  const marks = new Map();
  for (const edge of edges) {
    if (!edge.location) continue;
    const key = edge.location.map(Math.round).join();
    if (!marks.has(key)) marks.set(key, { location: edge.location, edges: [] });
    marks.get(key).edges.push(edge);
  }
  return marks;
}
