// What the edge does now and did lately: alerts, numbers, charts, the busiest distributions.

import { get, poll } from "../api.js";
import { Chart } from "../charts.js";
import { badge, card, choice, h, heading, setText } from "../dom.js";
import { bits, bytes, count, duration, moment, percent, perSecond, plural } from "../format.js";
import { Table } from "../table.js";

const LIVE = "15m";
const LIVE_S = 900;
const RANGES = [[LIVE, "15 min"], ["6h", "6 hours"], ["7d", "7 days"]];
const RELOAD_MS = { "6h": 10000, "7d": 60000 };
const FIELDS = [
  "http_bytes", "rtmp_bytes", "origin_bytes", "requests", "hits", "server_errors",
  "rtmp_viewers", "http_connections", "hit_ratio",
];

export function overview(main, page) {
  const alerts = h("div", { role: "status", "aria-label": "Alerts", class: "alert-box" });
  const tiles = [
    tile("Viewers", (one) => count(viewersOf(one)), (one) => viewerKinds(one)),
    tile("Sent", (one) => bits(sent(one.rates)), (one) => `${bits(one.rates?.rtmp_bytes)} over RTMP`),
    tile("From origins", (one) => bits(one.rates?.origin_bytes), (one) => `${count(one.fills?.running)} reads run`),
    tile("Requests", (one) => perSecond(one.rates?.requests), (one) => `${perSecond(one.rates?.server_errors)} failed`),
    tile("Hit ratio, bytes", (one) => percent(one.hit_ratio?.bytes), () => "over the last minute"),
    tile("Hit ratio, requests", (one) => percent(one.hit_ratio?.requests), () => "over the last minute"),
    tile("Cache", (one) => bytes(one.cache?.used_bytes), (one) => `of ${bytes(one.cache?.limit_bytes)}`, (one) => one.cache),
    tile("Queued writes", (one) => count(one.writes?.queued), (one) => `${count(one.writes?.dead_letters)} refused for good`),
  ];
  const charts = {
    traffic: new Chart({
      title: "Traffic",
      format: bits,
      least: 125, // 1 kbit/s
      series: [
        { label: "HTTP", colour: "--c1", isFilled: true },
        { label: "RTMP", colour: "--c2", isFilled: true },
        { label: "Origins", colour: "--c3" },
      ],
    }),
    requests: new Chart({
      title: "HTTP requests",
      format: perSecond,
      series: [
        { label: "All", colour: "--c1", isFilled: true },
        { label: "Hits", colour: "--c2" },
        { label: "Failed (5xx)", colour: "--c4" },
      ],
    }),
    viewers: new Chart({
      title: "Viewers",
      format: count,
      isWhole: true,
      series: [
        { label: "RTMP", colour: "--c2", isFilled: true },
        { label: "HTTP connections", colour: "--c1" },
      ],
    }),
    ratio: new Chart({
      title: "Hit ratio of requests",
      format: percent,
      maximum: 1,
      series: [{ label: "Hit ratio", colour: "--c2", isFilled: true }],
    }),
  };
  const busiest = new Table({
    caption: "The busiest distributions of the last minute",
    empty: "No distribution had a request in the last minute.",
    key: (row) => row.id,
    columns: [
      { label: "Distribution", isHead: true, text: (row) => row.id },
      { label: "Requests", kind: "number", text: (row) => perSecond(row.requests) },
      { label: "Hits", kind: "number", text: (row) => percent(row.requests ? row.hits / row.requests : null) },
      { label: "Sent", kind: "number", text: (row) => bits(row.bytes) },
      { label: "From the cache", kind: "number", text: (row) => percent(row.bytes ? row.hit_bytes / row.bytes : null) },
    ],
  });
  const about = h("p", { class: "lead" });

  let range = LIVE;
  let past = null; // of the live range: {times, columns by field}
  let reload = null;

  function draw({ times, columns }) {
    const of = (name) => columns[name];
    charts.traffic.show(times, [of("http_bytes"), of("rtmp_bytes"), of("origin_bytes")]);
    charts.requests.show(times, [of("requests"), of("hits"), of("server_errors")]);
    charts.viewers.show(times, [of("rtmp_viewers"), of("http_connections")]);
    charts.ratio.show(times, [of("hit_ratio")]);
  }

  async function load(signal) {
    const chosen = range;
    const document_ = await get(`/status/history?range=${chosen}&fields=${FIELDS.join(",")}`, signal);
    if (chosen !== range) return;
    const times = document_.fields.requests.map((_, index) => document_.start_s + index * document_.step_s);
    const loaded = { times, columns: document_.fields };
    past = chosen === LIVE ? loaded : null;
    draw(loaded);
  }

  function choose(name) {
    range = name;
    past = null;
    if (reload) reload.stop();
    reload = poll(load, RELOAD_MS[name] || 3_600_000);
  }

  function append(document_) {
    if (!past || !document_.rates) return;
    const now_s = Math.floor(document_.time_s);
    if (past.times.length && now_s <= past.times[past.times.length - 1]) return;
    const rates = document_.rates;
    const values = {
      ...rates,
      rtmp_viewers: document_.viewers.rtmp,
      http_connections: document_.viewers.http_connections,
      hit_ratio: rates.requests ? rates.hits / rates.requests : null,
    };
    past.times.push(now_s);
    for (const field of FIELDS) past.columns[field].push(values[field] ?? null);
    while (past.times[0] < now_s - LIVE_S) {
      past.times.shift();
      for (const field of FIELDS) past.columns[field].shift();
    }
    draw(past);
  }

  const unsubscribe = page.status.subscribe((document_) => {
    if (!document_) return;
    for (const one of tiles) one.show(document_);
    showAlerts(alerts, document_);
    busiest.update(document_.distributions || []);
    setText(
      about,
      `StreamEdge ${document_.version}, ${plural(document_.workers, "worker")}, up for ${duration(document_.time_s - document_.started_s)}`,
    );
    append(document_);
  });
  const ranges = choice("Range of the charts", RANGES, range, choose);
  const head = heading("Overview", "", ranges);
  head.firstElementChild.append(about);
  main.append(
    head,
    alerts,
    h("div", { class: "tiles" }, ...tiles.map((one) => one.element)),
    h("div", { class: "charts" }, ...Object.values(charts).map((one) => one.element)),
    card("Busiest distributions", busiest.element),
  );
  choose(range);
  const describing = setInterval(() => Object.values(charts).forEach((one) => one.describe()), 15000);
  return () => {
    unsubscribe();
    clearInterval(describing);
    if (reload) reload.stop();
    for (const one of Object.values(charts)) one.close();
  };
}

function sent(rates) {
  return rates ? rates.http_bytes + rates.rtmp_bytes : null;
}

function viewersOf(document_) {
  const { rtmp, http } = document_.viewers;
  return rtmp + (http ?? 0);
}

function viewerKinds(document_) {
  const { rtmp, http } = document_.viewers;
  return http === null ? `${count(rtmp)} RTMP` : `${count(rtmp)} RTMP, ${count(http)} HTTP`;
}

// A number with its name and a note; `part(document)`: {used_bytes, limit_bytes} for a meter.
function tile(name, value, note, part = null) {
  const [number, small] = [h("dd", { class: "value" }, "–"), h("dd", { class: "note" }, "\u00a0")];
  const meter = part ? h("meter", { min: 0, max: 1, high: 0.98, value: 0, "aria-label": `${name}, share in use` }) : null;
  const element = h("dl", { class: "tile" }, h("dt", {}, name), number, small, meter ? h("dd", {}, meter) : null);
  return {
    element,
    show(document_) {
      setText(number, value(document_));
      setText(small, note(document_));
      const used = part ? part(document_) : null;
      if (meter && used && used.limit_bytes) meter.value = used.used_bytes / used.limit_bytes;
    },
  };
}

function showAlerts(place, document_) {
  const problems = (document_.problems || []).map((text) => ({ severity: "critical", summary: text }));
  const all = [...problems, ...(document_.alerts || [])];
  const texts = JSON.stringify(all.map((one) => [one.severity, one.summary, one.labels, one.since_s]));
  if (place.dataset.texts === texts) return;
  place.dataset.texts = texts;
  place.replaceChildren();
  if (!all.length) return;
  place.append(
    h(
      "ul",
      { class: "alerts" },
      ...all.map((one) =>
        h(
          "li",
          { class: one.severity === "critical" ? "bad" : "warn" },
          badge(one.severity, one.severity === "critical" ? "bad" : "warn"),
          h(
            "div",
            { class: "alert-text" },
            h("p", {}, subjectOf(one), one.summary),
            one.advice ? h("p", { class: "hint" }, one.advice) : null,
          ),
          one.since_s ? h("span", { class: "since" }, `since ${moment(one.since_s)}`) : null,
        ),
      ),
    ),
  );
}

// What an alert is about: "origin main".
function subjectOf(alert) {
  const parts = Object.entries(alert.labels || {}).map(([name, value]) => `${name} ${value}`);
  return parts.length ? h("strong", {}, `${parts.join(", ")}: `) : null;
}
