"""Style and script of the report page, inline so that one file opens anywhere, offline."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --bg: #fbfbfa; --card: #fff; --ink: #1c1e21; --soft: #667;
  --line: #e2e3e6; --hover: #f2f5f9; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --bg: #15171a; --card: #1d2024; --ink: #e6e7e9;
  --soft: #99a; --line: #33373d; --hover: #262a30; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 28px clamp(14px, 3vw, 48px) 60px; background: var(--bg);
  color: var(--ink); font: 14px/1.45 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 22px; margin: 0 0 2px; letter-spacing: -0.01em; }
h2 { font-size: 15px; margin: 34px 0 10px; }
.soft { color: var(--soft); }
.bar { display: flex; flex-wrap: wrap; gap: 10px 18px; align-items: center; margin: 18px 0 10px; }
.bar input { flex: 0 1 280px; padding: 6px 10px; border: 1px solid var(--line); font: inherit;
  border-radius: 7px; background: var(--card); color: inherit; }
.frame { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; text-align: right; white-space: nowrap; vertical-align: middle; }
th { position: sticky; top: 0; background: var(--card); font-weight: 600; font-size: 12px;
  color: var(--soft); border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; } th small { display: block; font-weight: 400; font-size: 11px; }
th button { all: unset; cursor: pointer; }
th button:hover, th button:focus-visible { color: var(--accent); }
th[aria-sort=ascending] button::after { content: " \\25B2"; color: var(--accent); }
th[aria-sort=descending] button::after { content: " \\25BC"; color: var(--accent); }
td.text, th.text { text-align: left; }
tbody tr + tr td { border-top: 1px solid var(--line); }
tbody tr:hover td { background: var(--hover); }
td a { color: inherit; text-decoration-color: var(--line); text-underline-offset: 3px; }
td a:hover { color: var(--accent); }
td small { color: var(--soft); }
td.top { font-weight: 650; }
.state { display: inline-block; padding: 1px 9px; border-radius: 99px; font-size: 12px;
  background: #8883; }
.done { background: #009e7330; color: #00805c; } .running { background: #0072b22e; color: #0072b2; }
.failed { background: #d55e0033; color: #bf4a00; } .incomplete { background: #e69f0030; }
@media (prefers-color-scheme: dark) { .done { color: #4fd1a8; } .running { color: #7cc4f0; }
  .failed { color: #ff9d66; } }
svg { display: block; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .grid { stroke: var(--line); }
.spark { width: 90px; height: 22px; float: left; margin-right: 12px; }
.spark polyline { stroke: var(--accent); stroke-width: 1.4; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr));
  gap: 14px; }
figure { margin: 0; padding: 12px 14px 8px; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }
figcaption { font-weight: 600; font-size: 13px; margin-bottom: 4px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; color: var(--soft); }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  margin-right: 5px; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  margin: 8px 0; padding: 0 14px; }
summary { cursor: pointer; padding: 10px 0; } details[open] { padding-bottom: 14px; }
details .charts figure { background: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; margin: 4px 0 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.warn { color: #bf4a00; }
"""

# The order is kept in the address (#sort=column, #sort=-column), so that it can be shared.
SCRIPT = """
"use strict";
const table = document.querySelector("table");
if (table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.classList.contains("text")) return cell.textContent.trim().toLowerCase();
    return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
  };
  const compare = (a, b, sign) => {
    if (typeof a === "string") return sign * (a < b ? -1 : a > b ? 1 : 0);
    if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);  // runs without a value come last
    return sign * (a - b);
  };
  const sortBy = (name, sign) => {
    const column = heads.findIndex((head) => head.dataset.name === name);
    if (column < 0) return;
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
    rows.sort((a, b) => compare(a[0], b[0], sign)).forEach((pair) => body.append(pair[1]));
  };
  const readAddress = () => {
    const hash = decodeURIComponent(location.hash);
    const run = hash.startsWith("#run-") && document.getElementById(hash.slice(1));
    if (run) { run.open = true; run.scrollIntoView(); }
    if (!hash.startsWith("#sort=")) return;
    const down = hash[6] === "-";
    sortBy(hash.slice(down ? 7 : 6), down ? -1 : 1);
  };
  heads.forEach((head) => head.querySelector("button").addEventListener("click", () => {
    const now = head.getAttribute("aria-sort");
    // numbers: the largest first, as most metrics are read
    const down = now ? now === "ascending" : !head.classList.contains("text");
    const order = encodeURIComponent((down ? "-" : "") + head.dataset.name);
    history.replaceState(null, "", "#sort=" + order);
    readAddress();
  }));
  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\\s+/);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  window.addEventListener("hashchange", readAddress);
  readAddress();
}
"""
