// Evidence as people read it: numbers side by side become bars, sequences become lines, the rest is listed by name.

import { clock, html, number, svg } from "./elements.js";

const WIDTH = 560;
const isNumber = (value) => typeof value === "number" || value === null;
// Event times are microseconds since the epoch; a small number of microseconds is a length of time.
const isTime = (name, value) => name.endsWith("_us") && value > 1e14;
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

// Charts first, then plain facts, then what is nested.
export function evidence(record) {
  const facts = html("dl");
  const [charts, sections] = [[], []];
  for (const [name, value] of Object.entries(record)) {
    const title = name.replaceAll("_", " ");
    const chart = figure(title, value);
    if (chart) charts.push(chart);
    else if (isObject(value)) sections.push(html("h3", {}, title), ...evidence(value));
    else facts.append(html("dt", {}, title.replace(/ us$/, "")), html("dd", {}, isTime(name, value) ? clock(value / 1000) : plain(value)));
  }
  return [...charts, ...(facts.childElementCount ? [facts] : []), ...sections];
}

function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join(", ") || "–";
  if (isObject(value)) return JSON.stringify(value);
  return typeof value === "number" ? number(value) : value === null ? "–" : String(value);
}

function figure(title, value) {
  if (!Array.isArray(value) || !value.length) return null;
  if (value.length >= 4 && value.every(isNumber)) return line(title, value);
  if (!value.every(isObject)) return null;
  const columns = Object.keys(value[0]).filter((c) => !value.some((row) => row[c] !== null && typeof row[c] === "object"));
  const series = columns.filter((c) => value.every((row) => isNumber(row[c])));
  const label = columns.find((c) => !series.includes(c)) ?? columns[0];
  const marks = series.filter((c) => c !== label);
  if (marks.length === 2 && marks[0] === "reference" && value.length > 1) return pairs(title, value, label, marks);
  if (marks.length === 1 && columns.length === 2 && value.length > 1) return bars(title, value, label, marks[0]);
  return table(title, value, columns, series);
}

const caption = (title, ...more) => html("figcaption", {}, title, ...more);

// Two histograms over the same bins, each as a share of its own sum, so that a small window compares with a large reference.
function pairs(title, rows, label, [a, b]) {
  const share = (name) => {
    const sum = rows.reduce((total, row) => total + Math.abs(row[name] ?? 0), 0) || 1;
    return rows.map((row) => Math.abs(row[name] ?? 0) / sum);
  };
  const [first, second] = [share(a), share(b)];
  const top = Math.max(...first, ...second) || 1;
  const height = 120;
  const step = WIDTH / rows.length;
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${height + 18}`, role: "img", "aria-label": title });
  rows.forEach((row, i) => {
    const text = `${row[label]}: ${a} ${number(first[i] * 100)} %, ${b} ${number(second[i] * 100)} %`;
    const bar = (share, offset, mark) => svg("rect", {
      x: i * step + offset * step, y: height - (share / top) * height, width: step * 0.4, height: (share / top) * height, class: mark,
    });
    chart.append(svg("g", {}, svg("title", {}, text), bar(first[i], 0.08, "mark-a"), bar(second[i], 0.5, "mark-b")));
  });
  const ends = [[0, "start", rows[0]], [WIDTH, "end", rows.at(-1)]];
  chart.append(svg("line", { x1: 0, x2: WIDTH, y1: height, y2: height, class: "axis" }));
  chart.append(...ends.map(([x, anchor, row]) => svg("text", { x, y: height + 14, "text-anchor": anchor }, String(row[label]))));
  return html("figure", {}, caption(title, html("i", { class: "mark-a" }), a, html("i", { class: "mark-b" }), b), chart);
}

// A few named values: horizontal bars.
function bars(title, rows, label, mark) {
  const shown = rows.slice(0, 16);
  const top = Math.max(...shown.map((row) => Math.abs(row[mark] ?? 0))) || 1;
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${shown.length * 20}`, role: "img", "aria-label": title });
  shown.forEach((row, i) => {
    const width = (Math.abs(row[mark] ?? 0) / top) * (WIDTH - 250);
    chart.append(
      svg("text", { x: 0, y: i * 20 + 13 }, String(row[label]).slice(0, 30)),
      svg("rect", { x: 170, y: i * 20 + 4, width: Math.max(1, width), height: 12, class: "mark-b" }),
      svg("text", { x: 176 + width, y: i * 20 + 13 }, number(row[mark])),
    );
  });
  return html("figure", {}, caption(title), chart);
}

function table(title, rows, columns, series) {
  const cell = (row, c) => html("td", { class: series.includes(c) ? "number" : null }, isTime(c, row[c]) ? clock(row[c] / 1000) : plain(row[c]));
  const head = columns.map((c) => html("th", { class: series.includes(c) ? "number" : null }, c.replaceAll("_", " ")));
  const body = rows.slice(0, 30).map((row) => html("tr", {}, ...columns.map((c) => cell(row, c))));
  return html("figure", {}, caption(title), html("table", {}, html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...body)));
}

function line(title, values) {
  const known = values.filter((v) => v !== null);
  if (!known.length) return null;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const height = 70;
  const place = (v, i) => `${(i / (values.length - 1)) * WIDTH},${height - ((v - low) / (high - low || 1)) * (height - 4) - 2}`;
  const points = values.map((v, i) => (v === null ? null : place(v, i))).filter((p) => p !== null);
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${height + 4}`, role: "img", "aria-label": title },
    svg("polyline", { points: points.join(" "), class: "mark-line" }));
  return html("figure", {}, caption(`${title}, ${number(low)} to ${number(high)}`), chart);
}
