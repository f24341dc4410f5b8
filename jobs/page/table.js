// The table: cells from data, sorting, filtering, columns; lines are drawn as they come into view.
const DRAWN_AT_ONCE = 120;
const SHOWN_CONFIGS = 6, SHOWN_METRICS = 14;

const data = JSON.parse(document.getElementById("data").textContent);
const columns = data.columns.map(
  ([name, role, better, isText], place) => ({ name, role, better, isText, place }));
// the name first: it stays in view when the table is scrolled sideways
columns.sort((a, b) => (b.name === "name") - (a.name === "name") || a.place - b.place);
const view = { order: data.lines.map((_, index) => index), drawn: 0, words: [], states: new Set(),
  sorted: null, hidden: new Set(), open: new Set() };
const table = document.querySelector("table");
const body = table.tBodies[0];

const hours = (value) => {
  const minutes = Math.round(value * 60);
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}`;
};

const formatSpread = ([mean, deviation]) => {
  if (typeof deviation !== "number") return formatNumber(mean);
  if (deviation === 0) return `${formatNumber(mean)} \u00b1 0`;
  const places = Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(deviation))));
  return `${mean.toFixed(places)} \u00b1 ${deviation.toFixed(places)}`;
};

const isSpread = (column) => data.isGrouped && (column.role === "metric" || column.name === "loss");

const cellText = (column, cell) => {
  if (cell === null) return "";
  if (isSpread(column)) return formatSpread(cell);
  if (column.role === "metric") return formatNumber(cell[0]);
  if (column.name === "hours") return hours(cell);
  if (column.name === "step" && Array.isArray(cell)) {
    return cell[1] === null || cell[1] === cell[0] ? String(cell[0]) : `${cell[0]}/${cell[1]}`;
  }
  return typeof cell === "number" && column.name !== "step" ? formatNumber(cell) : String(cell);
};

const sortValue = (cell) => {
  const value = Array.isArray(cell) ? cell[0] : cell;
  return value === "nan" ? null : value === "inf" ? Infinity : value === "-inf" ? -Infinity : value;
};

// Numbers before words, nothing last, whichever way it goes.
const compare = (a, b, sign) => {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  if (typeof a === "string") return sign * a.localeCompare(b, "en", { numeric: true });
  return sign * (a - b);
};

const tops = columns.map((column) => {
  if (column.role !== "metric" || data.lines.length < 2) return null;
  const found = data.lines.map(([cells]) => sortValue(cells[column.place])).filter(
    Number.isFinite);
  if (!found.some((value) => value !== found[0])) return null;
  return found.reduce((a, b) => (column.better === "min" ? Math.min : Math.max)(a, b));
});

const rowOf = (index) => {
  const values = data.rows[index];
  return Object.fromEntries(data.fields.map((field, place) => [field, values[place]]));
};

const haystacks = new Map();
const haystack = (index) => {
  if (!haystacks.has(index)) {
    const [cells, members] = data.lines[index];
    const words = columns.map((column) => {
      const text = cellText(column, cells[column.place]);
      return column.role === "config" ? `${column.name}=${text}` : text;
    });
    haystacks.set(index, [...words, ...members.map((row) => data.rows[row][PATH])].join(" ")
      .toLowerCase());
  }
  return haystacks.get(index);
};

const isWanted = (index) => {
  const [, members] = data.lines[index];
  if (view.states.size && !members.some((row) => view.states.has(data.rows[row][STATE]))) return false;
  if (!view.words.length) return true;
  const text = haystack(index);
  return view.words.every((word) => text.includes(word));
};

const PATH = data.fields.indexOf("path"), STATE = data.fields.indexOf("state");
const CAUSE = data.fields.indexOf("cause"), PROBLEMS = data.fields.indexOf("problems");

const nameCell = (index, text) => {
  // the end of a name tells runs apart: it is never cut
  const cut = /^(.+?)(-[0-9a-f]{8})$/.exec(text) || /^(.{24,})(.{10})$/.exec(text) || [0, text, ""];
  const button = element("button", { type: "button", "aria-expanded": view.open.has(index),
    title: text, onclick: () => toggleDetail(index) },
  element("b", {}, cut[1]), element("i", {}, cut[2]));
  return element("td", { class: "text name" }, button);
};

const stateCell = (members, text) => {
  const row = data.rows[members[0]];
  const word = /^\w+$/.test(row[STATE]) ? row[STATE] : "";
  const cell = element("td", { class: "text" },
    element("span", { class: members.length === 1 || /^\w+$/.test(text) ? `state ${word}` : "" }, text));
  const problems = members.flatMap((each) => data.rows[each][PROBLEMS]);
  if (problems.length) {
    cell.append(element("span", { class: "flag", title: problems.join("\n") }, " !"));
  }
  return cell;
};

const drawCell = (index, column, top) => {
  const [cells, members] = data.lines[index];
  const cell = cells[column.place], text = cellText(column, cell);
  if (column.name === "name") return nameCell(index, text);
  if (column.name === "state") return stateCell(members, text);
  const made = element("td", { class: column.isText ? "text" : column.role }, text);
  if (column.role === "metric" && cell !== null) {
    if (top !== null && sortValue(cell) === top) made.classList.add("top");
    const best = formatNumber(cell[1]);
    if (!data.isGrouped && best !== text && best !== "nan") {
      made.append(element("small", {}, ` (${best})`));
      made.title = `best ${best} at step ${cell[2]}`;
    }
    if (data.isGrouped) made.title = `mean \u00b1 deviation of ${cell[2]} run(s)`;
  } else if (column.role === "config") made.title = `${column.name}: ${text}`;
  return made;
};

const drawLine = (index) => {
  const [, members] = data.lines[index];
  const box = element("input", { type: "checkbox", "aria-label": "draw its curves",
    onchange: () => { pick(index, box.checked); } });
  box.checked = picked.includes(index);
  box.disabled = !members.some(hasCurves);
  const line = element("tr", { class: "run", "data-line": index },
    element("td", { class: "pick" }, box));
  columns.forEach((column, place) => {
    if (!view.hidden.has(column.name)) line.append(drawCell(index, column, tops[place]));
  });
  return line;
};

const drawMore = (count = DRAWN_AT_ONCE) => {
  const next = view.order.slice(view.drawn, view.drawn + count);
  for (const index of next) {
    body.append(drawLine(index));
    if (view.open.has(index)) body.append(drawDetail(index));
  }
  view.drawn += next.length;
};

const redraw = () => {
  view.order = data.lines.map((_, index) => index).filter(isWanted);
  if (view.sorted) {
    const { column: { place }, sign } = view.sorted;
    const key = (index) => sortValue(data.lines[index][0][place]);
    view.order.sort((a, b) => compare(key(a), key(b), sign) || a - b);
  }
  body.replaceChildren();
  view.drawn = 0;
  drawMore();
  const all = data.lines.length, left = view.order.length;
  document.getElementById("shown").textContent = left === all ? "" : `${left} of ${all}`;
};

const drawHead = () => {
  const cells = columns.filter((column) => !view.hidden.has(column.name)).map((column) => {
    const cut = column.role === "config" ? column.name.lastIndexOf(".") : column.name.lastIndexOf("/");
    const label = column.role === "fact" || cut < 0 ? [column.name]
      : [element("small", {}, column.name.slice(0, cut)), column.name.slice(cut + 1)];
    const sorted = view.sorted && view.sorted.column === column;
    return element("th", { scope: "col", "data-name": column.name,
      class: column.isText ? `text ${column.name === "name" ? "name" : ""}` : "",
      "aria-sort": sorted ? (view.sorted.sign > 0 ? "ascending" : "descending") : null },
    element("button", { type: "button", title: column.name,
      onclick: () => press(column.name) }, ...label));
  });
  table.tHead.rows[0].replaceChildren(
    element("th", { class: "pick" }, element("span", { title: "curves" }, "")), ...cells);
};

const sortBy = (name, sign) => {
  const column = columns.find((each) => each.name === name);
  if (!column) return;
  view.sorted = { column, sign };
  drawHead();
  redraw();
};

const press = (name) => {
  const column = columns.find((each) => each.name === name);
  const isLow = column.better === "min" || name === "loss";
  const first = column.isText || column.role === "config" || isLow ? 1 : -1;
  const isAgain = view.sorted && view.sorted.column === column;
  const sign = isAgain ? -view.sorted.sign : first;
  sortBy(name, sign);
  // kept in the address, so that it can be shared
  history.replaceState(null, "", `#sort=${encodeURIComponent((sign < 0 ? "-" : "") + name)}`);
  table.querySelector(`th[data-name="${CSS.escape(name)}"] button`).focus();
};

const toggleDetail = (index) => {
  const isOpen = !view.open.delete(index);
  const line = body.querySelector(`tr[data-line="${index}"]`);
  if (isOpen) {
    view.open.add(index);
    line.after(drawDetail(index));
  } else line.nextElementSibling.remove();
  line.querySelector(".name button").setAttribute("aria-expanded", isOpen);
};

const setUpFilter = () => {
  const filter = document.getElementById("filter");
  filter.addEventListener("input", () => {
    view.words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    redraw();
  });
  const counts = new Map();
  for (const row of data.rows) counts.set(row[STATE], (counts.get(row[STATE]) || 0) + 1);
  const chips = [...counts].map(([state, count]) => {
    const word = /^\w+$/.test(state) ? state : "";
    const chip = element("button", { type: "button", class: "chip", "aria-pressed": "false",
      onclick: () => {
        if (!view.states.delete(state)) view.states.add(state);
        chip.setAttribute("aria-pressed", view.states.has(state));
        redraw();
      } }, element("span", { class: `state ${word}` }, `${count} ${state}`));
    return chip;
  });
  document.getElementById("states").replaceChildren(...chips);
};

// Config columns that would say nothing new: paths, and what divides the runs as one before does.
const dullConfigs = () => {
  const divisions = new Set();
  return columns.filter((column) => {
    if (column.role !== "config") return false;
    const values = data.lines.map(([cells]) => cells[column.place]);
    const numbers = new Map();
    const division = values.map((value) => {
      if (!numbers.has(value)) numbers.set(value, numbers.size);
      return numbers.get(value);
    }).join();
    const isDull = divisions.has(division)
      || values.some((value) => typeof value === "string" && value.includes("/"));
    divisions.add(division);
    return isDull;
  });
};

const setUpColumns = () => {
  dullConfigs().forEach((column) => view.hidden.add(column.name));
  for (const [role, limit] of [["config", SHOWN_CONFIGS], ["metric", SHOWN_METRICS]]) {
    columns.filter((column) => column.role === role && !view.hidden.has(column.name)).slice(limit)
      .forEach((column) => view.hidden.add(column.name));
  }
  const boxes = columns.filter((column) => column.name !== "name").map((column) => {
    const box = element("input", { type: "checkbox", onchange: () => {
      if (box.checked) view.hidden.delete(column.name); else view.hidden.add(column.name);
      drawHead();
      redraw();
    } });
    box.checked = !view.hidden.has(column.name);
    return element("label", {}, box, ` ${column.name}`);
  });
  const menu = document.getElementById("columns");
  menu.querySelector("div").replaceChildren(...boxes);
  if (view.hidden.size) {
    menu.querySelector("summary").textContent = `Columns (${view.hidden.size} hidden)`;
  }
};
