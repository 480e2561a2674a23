// The frame of the page: session, views by the address's fragment, theme, and notices.

import { StatusStream, call, get } from "./api.js";
import { redrawCharts } from "./charts.js";
import { h, setText } from "./dom.js";
import { loginView } from "./views/login.js";
import { overview } from "./views/overview.js";
import { viewers } from "./views/viewers.js";
import { cache } from "./views/cache.js";
import { origins } from "./views/origins.js";
import { invalidate } from "./views/invalidate.js";
import { writes } from "./views/writes.js";
import { distributions } from "./views/distributions.js";
import { certificates } from "./views/certificates.js";
import { fleet } from "./views/fleet.js";
import { log } from "./views/log.js";

const VIEWS = [
  ["overview", "Overview", overview],
  ["viewers", "Viewers", viewers],
  ["cache", "Cache", cache],
  ["origins", "Origins", origins],
  ["invalidate", "Invalidate", invalidate],
  ["writes", "Writes", writes],
  ["distributions", "Distributions", distributions],
  ["certificates", "Certificates", certificates],
  ["fleet", "Fleet", fleet],
  ["log", "Log", log],
];
const THEMES = { auto: "System", light: "Light", dark: "Dark" };
const NOTICE_MS = 8000;

const status = new StatusStream();
const main = document.getElementById("main");
const byId = (id) => document.getElementById(id);
let session = null;
let leave = null;
let retry = 0;

// What a view may use: mount(main, page) draws it and returns a function that ends it.
const page = {
  status,
  get isOperator() {
    return session !== null && session.role === "operator";
  },
  notify,
  confirm: ask,
};

function notify(text, kind = "good") {
  const notice = h("p", { class: `notice ${kind}` }, text);
  byId("notices").append(notice);
  setTimeout(() => notice.remove(), NOTICE_MS);
}

// Asks before something is done; resolves to whether it is to be done.
function ask(title, sentence, verb) {
  const dialog = byId("dialog");
  return new Promise((resolve) => {
    dialog.replaceChildren(
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "dialog-title" }, title),
        h("p", {}, sentence),
        h(
          "div",
          { class: "buttons" },
          h("button", { value: "", class: "quiet" }, "Cancel"),
          h("button", { value: "yes", class: "danger", autofocus: true }, verb),
        ),
      ),
    );
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

function viewOfAddress() {
  const name = location.hash.replace(/^#\/?/, "");
  return VIEWS.find(([one]) => one === name) || VIEWS[0];
}

function show(isFirst) {
  if (leave) leave();
  leave = null;
  if (!session) return;
  const [name, title, mount] = viewOfAddress();
  document.title = `${title} · ${session.edge} · StreamEdge`;
  for (const link of byId("views").querySelectorAll("a")) {
    if (link.dataset.view === name) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" }); // on a phone the views are a strip
    } else {
      link.removeAttribute("aria-current");
    }
  }
  main.replaceChildren();
  leave = mount(main, page) || null;
  if (!isFirst) main.querySelector("h1")?.focus();
}

function showLogin() {
  if (leave) leave();
  leave = null;
  session = null;
  status.stop();
  document.title = "Log in · StreamEdge";
  showSession();
  loginView(main, start);
}

function showSession() {
  document.body.classList.toggle("logged-out", session === null);
  setText(byId("edge-name"), session ? session.edge : "");
  setText(byId("user"), session && session.user ? `${session.user} (${session.role})` : "");
  byId("log-out").hidden = !session || !session.has_session;
  if (!session) showState(null);
}

function showState(document_) {
  const pill = byId("edge-state");
  const links = byId("views").querySelectorAll("a");
  const alerts = document_ && document_.alerts ? document_.alerts.length : 0;
  if (links.length) setText(links[0].querySelector(".count"), alerts ? String(alerts) : "");
  if (!session) {
    pill.className = "pill";
    setText(pill, "");
  } else if (!document_) {
    pill.className = "pill bad";
    setText(pill, "No connection to the edge");
  } else if (!document_.ready) {
    pill.className = "pill bad";
    setText(pill, "Not ready");
  } else if (alerts) {
    pill.className = document_.alerts.some((one) => one.severity === "critical") ? "pill bad" : "pill warn";
    setText(pill, alerts === 1 ? "1 alert" : `${alerts} alerts`);
  } else {
    pill.className = "pill good";
    setText(pill, "All is well");
  }
}

async function start() {
  clearTimeout(retry);
  try {
    session = await get("/session");
  } catch (error) {
    if (error.status === 401) return; // the event "login" has shown the form
    main.replaceChildren(h("h1", { tabindex: "-1" }, "No access"), h("p", { class: "empty" }, `${error.message}.`));
    retry = setTimeout(start, 3000);
    return;
  }
  showSession();
  status.start();
  show(true);
}

function theme() {
  const button = byId("theme");
  let chosen = localStorage.getItem("theme");
  if (!(chosen in THEMES)) chosen = "auto";
  function apply() {
    document.documentElement.dataset.theme = chosen;
    setText(button, `Theme: ${THEMES[chosen]}`);
    redrawCharts();
  }
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    chosen = names[(names.indexOf(chosen) + 1) % names.length];
    localStorage.setItem("theme", chosen);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
  apply();
}

byId("views").append(
  ...VIEWS.map(([name, title]) =>
    h("li", {}, h("a", { href: `#/${name}`, "data-view": name }, h("span", {}, title), h("span", { class: "count" }))),
  ),
);
byId("log-out").addEventListener("click", async () => {
  await call("POST", "/logout").catch(() => null);
  showLogin();
});
document.addEventListener("login", () => {
  if (session || !main.querySelector("form.login")) showLogin();
});
addEventListener("hashchange", () => show(false));
status.subscribe(showState);
theme();
start();
