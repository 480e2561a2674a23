// The log, as its lines are written; filtered by the edge.

import { h, heading, setText } from "../dom.js";
import { get } from "../api.js";
import { unavailable } from "./unavailable.js";

const LINES_MAX = 500;

export function log(main) {
  let source = null;
  let isPaused = false;
  let timer = 0;
  const state = h("p", { class: "lead", role: "status" }, "…");
  const event = h("input", { type: "search", placeholder: "Event, such as response", "aria-label": "Event", spellcheck: "false", autocapitalize: "none" });
  const match = h("input", { type: "search", placeholder: "Text", "aria-label": "Text in the line", spellcheck: "false", autocapitalize: "none" });
  const pause = h("button", { type: "button", class: "quiet", "aria-pressed": "false" }, "Pause");
  const clear = h("button", { type: "button", class: "quiet" }, "Clear");
  const lines = h("ol", { class: "log", tabindex: "0", "aria-label": "Log lines, the newest first" });

  function close() {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
  }

  async function open() {
    close();
    if (isPaused) return;
    const query = new URLSearchParams();
    if (event.value.trim()) query.set("event", event.value.trim());
    if (match.value.trim()) query.set("match", match.value.trim());
    const opened = new EventSource(`/log/stream?${query}`);
    source = opened;
    opened.onopen = () => setText(state, "Lines appear as they are written.");
    opened.onmessage = (message) => show(JSON.parse(message.data));
    opened.onerror = async () => {
      if (opened.readyState !== EventSource.CLOSED || source !== opened) {
        setText(state, "The connection was lost; it is opened again.");
        return;
      }
      close();
      try {
        await get("/log");
      } catch (error) {
        setText(state, "");
        main.querySelector("p.empty")?.remove();
        unavailable(main, error, "its log");
        return;
      }
      timer = setTimeout(open, 2000);
    };
  }

  function show(line) {
    const { time, event: name, process, ...fields } = line;
    const rest = Object.entries(fields).map(([key, value]) =>
      h("span", { class: "pair" }, h("span", { class: "key" }, `${key}=`), typeof value === "string" ? value : JSON.stringify(value)),
    );
    const clock = typeof time === "number" ? new Date(time * 1000).toLocaleTimeString() : "";
    lines.prepend(
      h("li", {}, h("time", {}, clock), h("span", { class: "process" }, String(process ?? "")), h("strong", {}, String(name ?? "")), ...rest),
    );
    while (lines.children.length > LINES_MAX) lines.lastElementChild.remove();
  }

  function later() {
    clearTimeout(timer);
    timer = setTimeout(open, 300);
  }

  event.addEventListener("input", later);
  match.addEventListener("input", later);
  clear.addEventListener("click", () => lines.replaceChildren());
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    setText(pause, isPaused ? "Go on" : "Pause");
    if (isPaused) setText(state, "Paused.");
    open();
  });
  const head = heading("Log", "", event, match, pause, clear);
  head.firstElementChild.append(state);
  main.append(head, h("section", { class: "card", "aria-label": "Log" }, lines));
  open();
  return close;
}
