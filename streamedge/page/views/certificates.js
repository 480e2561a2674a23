// The certificates of the listeners, and when they expire.

import { badge, h, heading } from "../dom.js";
import { day, duration, text } from "../format.js";
import { Table } from "../table.js";

const [SOON_S, VERY_SOON_S] = [30 * 86400, 7 * 86400];

export function certificates(main, page) {
  let now_s = Date.now() / 1000;
  const left = (row) => row.expires_s - now_s;
  const table = new Table({
    caption: "Certificates",
    empty: "No listener uses a certificate: this edge serves no TLS.",
    key: (row) => row.certificate,
    columns: [
      { label: "Names", isHead: true, kind: "long", text: (row) => text((row.names || []).join(", ")) },
      { label: "Expires", isLive: true, node: (row) => expiry(left(row)) },
      { label: "On", text: (row) => day(row.expires_s) },
      { label: "File", kind: "long", text: (row) => row.certificate },
    ],
  });
  main.append(
    heading("Certificates", "A renewed file is loaded within a second; no restart is needed."),
    h("section", { class: "card", "aria-label": "Certificates" }, table.element),
  );
  return page.status.subscribe((document_) => {
    if (!document_) return;
    now_s = document_.time_s;
    table.update(document_.certificates || []);
  });
}

function expiry(left_s) {
  if (!Number.isFinite(left_s)) return badge("unknown", "plain");
  if (left_s <= 0) return badge("expired", "bad");
  const kind = left_s < VERY_SOON_S ? "bad" : left_s < SOON_S ? "warn" : "good";
  return badge(`in ${duration(left_s)}`, kind);
}
