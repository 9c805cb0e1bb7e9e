// The console: a live table of alerts, filters, and one alert with its evidence.

import { clock, duration, html, number } from "./elements.js";
import { evidence } from "./evidence.js";
import { SignInNeeded, follow, get, post, signIn } from "./server.js";

const ALERTS = "api/v1/alerts";
const SEVERITIES = ["critical", "error", "warning", "info"];
const element = (id) => document.getElementById(id);
const alerts = new Map();
let selected = null;
let next = null;
let refresh = null;

function query() {
  const chosen = new URLSearchParams();
  for (const [name, value] of new FormData(element("filters"))) if (value !== "") chosen.append(name, value);
  return chosen;
}

// The filters again, for what the live stream brings; text is left to the server, which searches more than what is shown here.
function matches(alert) {
  const wanted = query();
  if (wanted.has("severity") && !wanted.getAll("severity").includes(alert.severity)) return false;
  if (wanted.has("status") && wanted.get("status") !== alert.status) return false;
  if (wanted.has("stream") && wanted.get("stream") !== alert.stream) return false;
  return !wanted.has("acknowledged") || (wanted.get("acknowledged") === "true") === (alert.acknowledgement !== null);
}

async function load(more = false) {
  const wanted = query();
  wanted.set("limit", "100");
  if (more) wanted.set("cursor", next);
  const page = await get(`${ALERTS}?${wanted}`);
  if (!more) alerts.clear();
  for (const alert of page.alerts) alerts.set(alert.id, alert);
  next = page.next;
  draw();
}

function draw(news = null) {
  const newest = [...alerts.values()].sort((a, b) => (a.onset < b.onset ? 1 : a.onset > b.onset ? -1 : a.id < b.id ? 1 : -1));
  element("rows").replaceChildren(...newest.map((alert) => row(alert, alert.id === news)));
  element("empty").hidden = newest.length > 0;
  element("more").hidden = next === null;
}

function row(alert, isNews) {
  const lasted = (Date.parse(alert.resolved ?? alert.last_seen) - Date.parse(alert.onset)) / 1000;
  const line = html("tr", {
    "data-id": alert.id, "data-severity": alert.severity, "data-status": alert.status, tabindex: 0,
    "aria-selected": String(alert.id === selected), class: isNews ? "news" : null,
  },
    html("td", {}, html("span", { class: "severity" }, alert.severity)),
    html("td", { class: "what" }, html("b", {}, alert.title), html("span", {}, alert.key)),
    html("td", {}, clock(alert.onset)),
    html("td", {}, lasted > 0 ? duration(lasted) : "–"),
    html("td", { class: "number" }, number(alert.peak_score)),
    html("td", {}, alert.acknowledgement ? `seen by ${alert.acknowledgement.by}` : alert.status));
  line.addEventListener("click", () => attempt(() => open(alert.id)));
  line.addEventListener("keydown", (event) => event.key === "Enter" && attempt(() => open(alert.id)));
  return line;
}

async function open(id) {
  selected = id;
  for (const line of element("rows").children) line.setAttribute("aria-selected", String(line.dataset.id === id));
  show(await get(`${ALERTS}/${id}`));
}

function show(alert) {
  const facts = [
    ["where", alert.key], ["detector", alert.detector], ["tenant", alert.tenant], ["onset", clock(alert.onset)],
    ["last seen", clock(alert.last_seen)], ["resolved", alert.resolved && clock(alert.resolved)],
    ["score", `${number(alert.score)} (peak ${number(alert.peak_score)}, alarm at ${number(alert.threshold)})`],
    ["p-value", alert.p_value !== null && number(alert.p_value)], ["e-value", alert.e_value !== null && number(alert.e_value)],
    ["seen", `${alert.count} times`], ["action", alert.action !== "NONE" && alert.action], ["incident", alert.incident],
    ["configuration", alert.config_hash], ...Object.entries(alert.labels),
  ].filter(([, value]) => value);
  const closer = html("button", { class: "close", type: "button", "aria-label": "Close" }, "×");
  closer.addEventListener("click", () => {
    selected = null;
    element("detail").hidden = true;
    draw();
  });
  const parts = [
    closer, html("span", { class: "severity" }, `${alert.severity}, ${alert.status}`), html("h2", {}, alert.title), html("p", {}, alert.summary),
    html("ul", { class: "tags" }, ...alert.tags.map((tag) => html("li", {}, tag))), acknowledgement(alert),
    html("h3", {}, "Evidence"), ...evidence(alert.evidence),
    html("h3", {}, "Facts"), html("dl", {}, ...facts.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)])),
  ];
  const pane = element("detail");
  pane.dataset.severity = alert.severity;
  pane.dataset.status = alert.status;
  pane.replaceChildren(...parts);
  pane.hidden = false;
}

function acknowledgement(alert) {
  if (alert.acknowledgement) {
    const { by, at, note } = alert.acknowledgement;
    return html("p", { class: "acknowledged" }, `Acknowledged by ${by}, ${clock(at)}${note ? `: ${note}` : ""}`);
  }
  const note = html("input", { placeholder: "Note (optional)", "aria-label": "Note", maxlength: 2000 });
  const form = html("form", { class: "acknowledge" }, note, html("button", {}, "Acknowledge"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => show(await post(`${ALERTS}/${alert.id}/acknowledge`, { note: note.value })));
  });
  return form;
}

async function count() {
  const counts = await get(`${ALERTS}/counts`);
  const tiles = SEVERITIES.map((s) => html("li", { "data-severity": s }, html("b", {}, String(counts.firing[s] ?? 0)), s));
  element("counts").replaceChildren(...tiles, html("li", {}, html("b", {}, String(counts.unacknowledged)), "not acknowledged"));
}

function changed(alert) {
  if (query().has("text")) {
    later(load);
  } else if (matches(alert)) {
    const isNews = !alerts.has(alert.id);
    alerts.set(alert.id, alert);
    draw(isNews ? alert.id : null);
  } else if (alerts.delete(alert.id)) {
    draw();
  }
  // The pane stays as it is while somebody writes a note in it.
  if (alert.id === selected && !element("detail").querySelector("input")?.value) attempt(() => open(alert.id));
  later(count);
}

// Many changes at once ask the server once.
const waiting = new Set();
function later(what) {
  waiting.add(what);
  refresh ??= setTimeout(() => {
    refresh = null;
    for (const job of waiting) attempt(job);
    waiting.clear();
  }, 300);
}

// Connected, or connected again: the list is loaded only now, so nothing is missed between the list and the stream.
function state(now) {
  element("live").dataset.state = now;
  element("live").textContent = now === "live" ? "live" : "no connection, trying again";
  if (now === "live") {
    later(load);
    later(count);
  }
}

async function attempt(what) {
  try {
    await what();
  } catch (error) {
    if (error instanceof SignInNeeded) ask(error.message);
    else element("live").textContent = error.message;
  }
}

function ask(why) {
  element("sign-in-why").textContent = why;
  if (!element("sign-in").open) element("sign-in").showModal();
}

const start = () => attempt(() => follow(changed, state));

element("sign-in").addEventListener("close", () => {
  const field = element("sign-in").querySelector("input");
  signIn(field.value);
  field.value = "";
  start();
});
element("filters").addEventListener("input", () => later(load));
element("filters").addEventListener("submit", (event) => event.preventDefault());
element("more").addEventListener("click", () => attempt(() => load(true)));
start();
