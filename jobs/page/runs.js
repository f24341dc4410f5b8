// What a run opens to: facts, what its config has of its own, curves; and the runs compared.
const PICKED_FIRST = 5, FIGURES = 24, PRINTED = 300;
const picked = [];
const settings = { weight: 0.5, isLog: false, isBand: false };

const texts = document.getElementById("curves").textContent.split("\n");
const hasCurves = (row) => Boolean(texts[row]) && texts[row] !== "{}";
const parsed = new Map();
// metric -> {steps, values} of a row, null where there is none
const curvesOf = (row) => {
  if (!parsed.has(row)) {
    const raw = hasCurves(row) ? JSON.parse(texts[row]) : null;
    for (const name in raw) {
      const [steps, values] = raw[name];
      raw[name] = { steps: typeof steps === "string" ? raw[steps].steps : steps,
        values: values.map((value) => value === null ? NaN : value) };
    }
    parsed.set(row, raw);
  }
  return parsed.get(row);
};

const groupOf = new Map();
data.groups.forEach((group) => group.forEach((row) => groupOf.set(row, group)));

const configOf = (row) => Object.assign({}, ...rowOf(row).config.map((name) => data.parts[name]));

// The most frequent value of every key among the runs of a kind, to tell what a run has of its own.
const usual = new Map();
const usualOf = (kind) => {
  if (!usual.has(kind)) {
    const counts = {};
    const KIND = data.fields.indexOf("kind"), CONFIG = data.fields.indexOf("config");
    const parts = new Map();
    for (const row of data.rows) {
      if (row[KIND] === kind) row[CONFIG].forEach((name) => parts.set(name, (parts.get(name) || 0) + 1));
    }
    for (const [name, count] of parts) {
      for (const [key, value] of Object.entries(data.parts[name] || {})) {
        const seen = counts[key] || (counts[key] = new Map());
        seen.set(value, (seen.get(value) || 0) + count);
      }
    }
    usual.set(kind, Object.fromEntries(Object.entries(counts).map(([key, seen]) =>
      [key, [...seen].reduce((a, b) => b[1] > a[1] ? b : a)[0]])));
  }
  return usual.get(kind);
};

const valueText = (value) => value === null ? "null"
  : typeof value === "number" ? formatNumber(value, 7) : String(value);

const figures = (members, options) => {
  // members: [{label, index, rows}]; several rows are drawn as their mean and deviation
  const names = new Set();
  for (const { rows } of members) rows.forEach((row) => Object.keys(curvesOf(row) || {}).forEach(
    (name) => names.add(name)));
  const ordered = [...names].sort((a, b) => (b.startsWith("loss") - a.startsWith("loss"))
    || a.localeCompare(b));
  const made = ordered.slice(0, FIGURES).map((name) => {
    const series = members.flatMap(({ label, index, rows }) => {
      const found = rows.map((row) => (curvesOf(row) || {})[name]).filter(Boolean);
      if (!found.length) return [];
      return [{ label, index, ...(found.length > 1 ? spreadOf(found) : found[0]) }];
    });
    return drawChart(name === "loss" ? "training loss" : name, series, { ...settings, ...options });
  });
  return made.filter(Boolean);
};

const facts = (row) => {
  const when = row.updated ? new Date(row.updated * 1000).toLocaleString() : null;
  const cause = row.state !== "done" && row.cause ? `: ${row.cause}` : "";
  const step = row.step === null ? null : row.steps === null ? row.step : `${row.step} of ${row.steps}`;
  const found = { folder: row.path, state: row.state + cause, reason: row.state !== "done" && row.reason,
    step, "saved step": row.saved_step, attempts: row.attempts, "training time": `${hours(row.hours)} h`,
    "last sign of life": when, code: row.code, "started from": row.parents.join(", "),
    command: row.arguments.join(" "), collection: row.collection };
  for (const [name, value] of Object.entries(row.facts)) found[name] = JSON.stringify(value);
  return found;
};

const definitions = (found) => element("dl", {}, ...Object.entries(found).flatMap(([name, value]) =>
  value === null || value === undefined || value === "" || value === false ? []
    : [element("dt", {}, name), element("dd", {}, String(value))]));

const metricTable = (row) => {
  const names = Object.keys(row.metrics).sort();
  if (!names.length) return "";
  const better = (name) => (columns.find((column) => column.name === name) || {}).better;
  return element("table", { class: "diff" }, element("tr", {},
    ...["metric", "last", "best", "at step"].map((word) => element("th", {}, word))),
  ...names.map((name) => {
    const [last, low, lowStep, high, highStep] = row.metrics[name];
    const [best, step] = better(name) === "min" ? [low, lowStep] : [high, highStep];
    return element("tr", {}, ...[name, formatNumber(last, 5), formatNumber(best, 5), step ?? ""].map(
      (word) => element("td", {}, String(word))));
  }));
};

const ownConfig = (index) => {
  const config = configOf(index), others = usualOf(rowOf(index).kind);
  const keys = Object.keys(config);
  if (!keys.length) return [];
  const own = keys.filter((key) => config[key] !== others[key]);
  const lines = own.map((key) => element("tr", {}, element("td", {}, key),
    element("td", {}, valueText(config[key])),
    element("td", { class: "same" }, key in others ? `usually ${valueText(others[key])}` : "")));
  const whole = element("details", {}, element("summary", {}, `whole config (${keys.length} keys)`));
  whole.addEventListener("toggle", () => {
    if (whole.open && whole.children.length === 1) whole.append(definitions(Object.fromEntries(
      keys.map((key) => [key, valueText(config[key])]))));
  });
  return [element("h3", {}, "Config of its own"),
    own.length ? element("table", { class: "diff" }, ...lines)
      : element("p", { class: "soft" }, "as most runs of its kind"), whole];
};

const memberTable = (members) => {
  const names = columns.filter((column) => column.role === "metric").slice(0, 8).map((c) => c.name);
  return element("div", { class: "scroll" }, element("table", { class: "diff" },
    element("tr", {}, ...["run", "seed", "state", "step", ...names].map(
      (word) => element("th", {}, word))),
    ...members.map((index) => {
      const row = rowOf(index), seed = configOf(index).seed;
      const values = names.map((name) => row.metrics[name] ? formatNumber(row.metrics[name][0]) : "");
      return element("tr", {}, ...[row.name, seed ?? "", row.state, row.step ?? "", ...values].map(
        (word) => element("td", {}, String(word))));
    })));
};

const drawDetail = (index) => {
  const [, members] = data.lines[index];
  const inner = element("div", { class: "inner" });
  const fill = () => {
    const row = rowOf(members[0]);
    const problems = members.flatMap((each) => rowOf(each).problems).map(
      (problem) => element("p", { class: "problem" }, problem));
    const marks = members.length > 1 ? [] : row.starts.slice(1).map(([number, step, cause]) => ({ step,
      label: String(number),
      title: `attempt ${number} from step ${step}${cause ? `, after ${cause}` : ""}` }));
    const side = members.length > 1 ? [memberTable(members), ...ownConfig(members[0])]
      : [definitions(facts(row)), metricTable(row), ...ownConfig(members[0])];
    const charts = figures([{ label: row.name, index: 0, rows: members }], { marks,
      note: members.length > 1 ? `mean \u00b1 deviation of ${members.length} runs` : "" });
    inner.replaceChildren(...problems, element("div", {
      class: members.length > 1 ? "sides wide" : "sides" },
      element("div", {}, ...side), element("div", { class: "charts" }, ...charts)));
    inner.style.width = `${document.querySelector(".frame").clientWidth}px`;
  };
  fill();
  inner.refresh = fill;
  return element("tr", { class: "detail" }, element("td", { colspan: columns.length + 1 }, inner));
};

const pick = (index, isIn) => {
  const place = picked.indexOf(index);
  if (isIn && place < 0) picked.push(index);
  if (!isIn && place >= 0) picked.splice(place, 1);
  drawComparison();
};

const swatch = (index) => svg("svg", { width: 22, height: 8 }, svg("path", { d: "M0 4H22",
  stroke: color(index), "stroke-width": 2.4, "stroke-dasharray": dashes(index) }));

// What is drawn for the picked lines: a line's own rows, or with the band on all of its seeds.
const comparedMembers = () => {
  const seen = new Set(), members = [];
  for (const line of picked) {
    let [, rows] = data.lines[line];
    let label = data.lines[line][0][columns[0].place];
    const group = groupOf.get(rows[0]);
    if (settings.isBand && rows.length === 1 && group) {
      if (seen.has(group)) continue;
      seen.add(group);
      rows = group;
      label = `${label.replace(/-[0-9a-f]{8}$/, "")} (${group.length} seeds)`;
    }
    members.push({ label, line, index: members.length, rows });
  }
  return tellApart(members);
};

const differingKeys = (configs) => [...new Set(configs.flatMap(Object.keys))].filter(
  (key) => configs.some((config) => config[key] !== configs[0][key]));

// Equal labels get the values that differ among them.
const tellApart = (members) => {
  for (const label of new Set(members.map((member) => member.label))) {
    const alike = members.filter((member) => member.label === label);
    if (alike.length < 2) continue;
    const configs = alike.map(({ rows }) => configOf(rows[0]));
    const keys = differingKeys(configs).filter((key) => key !== "seed").slice(0, 2);
    alike.forEach((member, place) => {
      const values = keys.map((key) => `${key.split(".").pop()}=${valueText(configs[place][key] ?? null)}`);
      member.label = [...values, label].join(" ");
    });
  }
  return members;
};

const configTable = (members) => {
  const configs = members.map(({ rows }) => configOf(rows[0]));
  if (configs.length < 2) return "";
  const keys = differingKeys(configs).slice(0, 60);
  if (!keys.length) return "";
  return element("div", { class: "scroll" }, element("h2", {}, "Config differences"),
    element("table", { class: "diff" }, element("tr", {}, element("th", {}, ""),
      ...members.map(({ index, label }) => element("th", {}, swatch(index), " ", label))),
    ...keys.map((key) => element("tr", {}, element("td", { class: "soft" }, key), ...configs.map(
      (config) => element("td", {}, key in config ? valueText(config[key]) : "-"))))));
};

const drawComparison = () => {
  const members = comparedMembers();
  const legend = members.map(({ label, line, index }) => element("li", {}, swatch(index),
    element("span", { title: label }, label), element("button", { type: "button",
      "aria-label": `no curves of ${label}`, onclick: () => {
        pick(line, false);
        const box = body.querySelector(`tr[data-line="${line}"] .pick input`);
        if (box) box.checked = false;
      } }, "\u00d7")));
  document.getElementById("legend").replaceChildren(...legend);
  document.getElementById("charts").replaceChildren(...(members.length ? figures(members, {})
    : [element("p", { class: "soft" }, "Tick runs in the table to draw their curves here.")]));
  document.getElementById("differences").replaceChildren(configTable(members));
};

const refreshCharts = () => {
  drawComparison();
  document.querySelectorAll(".inner").forEach((inner) => inner.refresh());
};

const setUpControls = () => {
  const weight = document.getElementById("weight"), shown = document.getElementById("weight-shown");
  weight.addEventListener("input", () => {
    settings.weight = Number(weight.value);
    shown.textContent = weight.value;
    refreshCharts();
  });
  for (const [id, name] of [["log", "isLog"], ["band", "isBand"]]) {
    const box = document.getElementById(id);
    box.addEventListener("change", () => { settings[name] = box.checked; refreshCharts(); });
  }
  document.getElementById("band").closest("label").hidden = !data.groups.length;
};

const readAddress = () => {
  const [what, value = ""] = decodeURIComponent(location.hash.slice(1)).split(/=(.*)/s);
  if (what === "sort") {
    const isDown = value[0] === "-";
    sortBy(value.slice(isDown ? 1 : 0), isDown ? -1 : 1);
  } else if (what === "run") {
    const index = data.lines.findIndex(([, rows]) => rows.some((row) => data.rows[row][PATH] === value));
    const place = view.order.indexOf(index);
    if (place < 0) return;
    if (place >= view.drawn) drawMore(place + DRAWN_AT_ONCE - view.drawn);
    if (!view.open.has(index)) toggleDetail(index);
    body.querySelector(`tr[data-line="${index}"]`).scrollIntoView();
  }
};

const pickFirst = () => {
  const UPDATED = data.fields.indexOf("updated");
  const newest = data.lines.map((_, index) => index).filter(
    (index) => data.lines[index][1].some(hasCurves));
  if (!data.isOrdered) {
    const age = (index) => Math.max(...data.lines[index][1].map((row) => data.rows[row][UPDATED]));
    newest.sort((a, b) => age(b) - age(a));
  }
  picked.push(...newest.slice(0, PICKED_FIRST));
};

setUpFilter();
setUpColumns();
setUpControls();
pickFirst();
drawHead();
redraw();
drawComparison();
readAddress();
new IntersectionObserver((seen) => { if (seen.some((each) => each.isIntersecting)) drawMore(); },
  { root: document.querySelector(".frame"), rootMargin: "600px" }).observe(
  document.getElementById("more"));
window.addEventListener("hashchange", readAddress);
window.addEventListener("beforeprint", () => drawMore(Math.max(0, PRINTED - view.drawn)));
window.addEventListener("resize", () => document.querySelectorAll(".inner").forEach((inner) => {
  inner.style.width = `${document.querySelector(".frame").clientWidth}px`;
}));
