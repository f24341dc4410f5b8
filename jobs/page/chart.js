// Line charts as SVG, drawn when they are looked at. Every text goes in as text, never as markup.
const WIDTH = 460, HEIGHT = 236, LEFT = 52, RIGHT = 12, TOP = 12, BOTTOM = 24;
const COLORS = 8;

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children);
  return made;
};

const svg = (tag, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

const color = (index) => `var(--c${index % COLORS})`;
// Beyond the colours, the dashes tell the runs apart.
const dashes = (index) => ["none", "6 3", "2 3", "9 3 2 3"][Math.floor(index / COLORS) % 4];

const formatNumber = (value, digits = 4) => {
  if (typeof value === "string") return value;
  if (value === null || value === undefined) return "";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  if (Math.abs(value) >= 10 ** (digits - 1)) return value.toFixed(0);
  if (value !== 0 && Math.abs(value) < 1e-3) {
    return value.toExponential(digits - 1).replace(/\.?0*e/, "e");
  }
  const text = value.toPrecision(digits);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
};

// About `count` round numbers that enclose the range; of a logarithmic axis its powers of ten.
const niceTicks = (low, high, count, isLog) => {
  if (isLog) {
    const first = Math.floor(Math.log10(low)), last = Math.max(first + 1, Math.ceil(Math.log10(high)));
    const stride = Math.ceil((last - first) / 5);
    const ticks = [];
    for (let power = first; power <= last; power += stride) ticks.push(10 ** power);
    if (ticks.length < 4) return [...new Set(ticks.flatMap((t) => [t, 2 * t, 5 * t]))].filter(
      (tick) => tick >= low * 0.5 && tick <= high * 2.1);
    return ticks;
  }
  if (!(high > low)) {
    const pad = Math.abs(low) * 0.1 || 1;
    [low, high] = [low - pad, high + pad];
  }
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((each) => each * power >= raw) * power;
  const ticks = [];
  for (let at = Math.floor(low / step); at <= Math.ceil(high / step); at++) ticks.push(at * step);
  return ticks;
};

const thousands = (value) => Math.abs(value) >= 1e6 ? `${+(value / 1e6).toPrecision(4)}M`
  : Math.abs(value) >= 1e4 ? `${+(value / 1e3).toPrecision(4)}k` : `${+value.toPrecision(6)}`;

// Exponential mean of the values so far, without the pull towards its start.
const smooth = (values, weight) => {
  let sum = 0, total = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return value;
    sum = sum * weight + value;
    total = total * weight + 1;
    return sum / total;
  });
};

// Mean and sample deviation of several curves at the steps that at least two of them have.
const spreadOf = (curves) => {
  const at = new Map();
  for (const { steps, values } of curves) {
    steps.forEach((step, index) => {
      if (!Number.isFinite(values[index])) return;
      if (!at.has(step)) at.set(step, []);
      at.get(step).push(values[index]);
    });
  }
  const least = Math.min(2, curves.length);
  const steps = [...at.keys()].filter((step) => at.get(step).length >= least).sort((a, b) => a - b);
  const means = [], deviations = [];
  for (const step of steps) {
    const found = at.get(step), mean = found.reduce((a, b) => a + b, 0) / found.length;
    const squares = found.reduce((sum, each) => sum + (each - mean) ** 2, 0);
    means.push(mean);
    deviations.push(found.length > 1 ? Math.sqrt(squares / (found.length - 1)) : 0);
  }
  return { steps, values: means, deviations };
};

const makeScale = (series, options) => {
  const shown = (value) => Number.isFinite(value) && (!options.isLog || value > 0);
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const { steps, values, deviations } of series) {
    values.forEach((value, index) => {
      if (!shown(value)) return;
      const around = deviations ? deviations[index] : 0;
      left = Math.min(left, steps[index]); right = Math.max(right, steps[index]);
      low = Math.min(low, shown(value - around) ? value - around : value);
      high = Math.max(high, value + around);
    });
  }
  if (left > right) return null;
  const yTicks = niceTicks(low, high, 4, options.isLog);
  if (!options.isLog) [low, high] = [yTicks[0], yTicks[yTicks.length - 1]];
  else [low, high] = [Math.min(low, yTicks[0]), Math.max(high, yTicks[yTicks.length - 1])];
  const xTicks = niceTicks(left, right, 5).filter((tick) => tick >= left && tick <= right);
  const map = options.isLog ? Math.log10 : (value) => value;
  const width = right - left || 1, height = map(high) - map(low) || 1;
  return { xTicks, yTicks, shown, left, right,
    x: (step) => LEFT + (step - left) / width * (WIDTH - LEFT - RIGHT),
    y: (value) => HEIGHT - BOTTOM - (map(value) - map(low)) / height * (HEIGHT - TOP - BOTTOM) };
};

const linePath = (scale, steps, values) => {
  let path = "", isDown = false;
  values.forEach((value, index) => {
    if (!scale.shown(value)) { isDown = false; return; }
    path += `${isDown ? "L" : "M"}${scale.x(steps[index]).toFixed(1)} ${scale.y(value).toFixed(1)}`;
    isDown = true;
  });
  return path;
};

const bandPath = (scale, { steps, values, deviations }) => {
  const there = [], back = [];
  values.forEach((value, index) => {
    const [low, high] = [value - deviations[index], value + deviations[index]];
    if (!scale.shown(value)) return;
    const x = scale.x(steps[index]).toFixed(1);
    there.push(`${x} ${scale.y(high).toFixed(1)}`);
    back.unshift(`${x} ${scale.y(scale.shown(low) ? low : value).toFixed(1)}`);
  });
  return there.length > 1 ? `M${there.join("L")}L${back.join("L")}Z` : "";
};

const drawAxes = (scale, marks) => {
  const parts = [];
  for (const tick of scale.yTicks) {
    const y = scale.y(tick).toFixed(1);
    parts.push(svg("path", { class: "grid", d: `M${LEFT} ${y}H${WIDTH - RIGHT}` }),
      svg("text", { x: LEFT - 7, y: +y + 3.5, "text-anchor": "end" }, thousands(tick)));
  }
  for (const tick of scale.xTicks) {
    const x = scale.x(tick), isLast = x > WIDTH - RIGHT - 14;
    parts.push(svg("text", { x: isLast ? WIDTH - RIGHT : x, y: HEIGHT - 7,
      "text-anchor": isLast ? "end" : "middle" }, thousands(tick)));
  }
  parts.push(svg("path", { class: "axis", d: `M${LEFT} ${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` }));
  for (const { step, label, title } of marks) {
    if (step <= scale.left || step > scale.right) continue;
    const x = scale.x(step).toFixed(1);
    const line = svg("path", { class: "mark", d: `M${x} ${TOP}V${HEIGHT - BOTTOM}` });
    line.append(svg("title", {}, title));
    parts.push(line, svg("text", { x: +x + 3, y: TOP + 9 }, label));
  }
  return parts;
};

const drawSeries = (scale, each, options) => {
  const { steps, values, index, deviations } = each;
  const style = { stroke: color(index), "stroke-dasharray": dashes(index) };
  const parts = [];
  if (deviations) {
    parts.push(svg("path", { class: "band", fill: color(index), d: bandPath(scale, each) }));
  }
  // evaluations are few: each point counts, so they are dots and are never smoothed
  const isDense = values.length > 30;
  if (isDense && options.weight > 0) {
    parts.push(svg("path", { ...style, class: "raw", d: linePath(scale, steps, values) }));
  }
  const drawn = isDense && options.weight > 0 ? smooth(values, options.weight) : values;
  parts.push(svg("path", { ...style, class: "line", d: linePath(scale, steps, drawn) }));
  if (!isDense) {
    values.forEach((value, place) => {
      if (!scale.shown(value)) return;
      parts.push(svg("circle", { cx: scale.x(steps[place]).toFixed(1),
        cy: scale.y(value).toFixed(1), r: 2.4, fill: color(index) }));
    });
  }
  return parts;
};

const nearest = (steps, wanted) => {
  let low = 0, high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= wanted) low = middle; else high = middle;
  }
  return wanted - steps[low] <= steps[high] - wanted ? low : high;
};

// Shows the values at the step under the pointer, or at the one that the arrow keys choose.
const addReadOut = (box, picture, scale, series) => {
  const cursor = svg("path", { class: "cursor", d: "", visibility: "hidden" });
  const tip = element("div", { class: "tip", hidden: true });
  const all = [...new Set(series.flatMap((each) => each.steps))].sort((a, b) => a - b);
  let place = -1;
  const hide = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); place = -1; };
  const show = (at) => {
    place = Math.max(0, Math.min(all.length - 1, at));
    const step = all[place], x = scale.x(step);
    cursor.setAttribute("d", `M${x.toFixed(1)} ${TOP}V${HEIGHT - BOTTOM}`);
    cursor.setAttribute("visibility", "visible");
    const lines = series.filter(({ steps }) => step >= steps[0] && step <= steps[steps.length - 1]);
    tip.replaceChildren(element("div", { class: "soft" }, `step ${step}`),
      ...lines.slice(0, 12).map(({ steps, values, deviations, label, index }) => {
        const at = nearest(steps, step);
        const around = deviations ? ` \u00b1 ${formatNumber(deviations[at], 2)}` : "";
        return element("div", {}, element("i", { style: `background:${color(index)}` }),
          element("span", {}, label), element("b", {}, formatNumber(values[at], 5) + around));
      }));
    tip.hidden = false;
    tip.style.left = x < WIDTH / 2 ? `${x / WIDTH * 100 + 2}%` : "auto";
    tip.style.right = x < WIDTH / 2 ? "auto" : `${(1 - x / WIDTH) * 100 + 2}%`;
  };
  picture.append(cursor);
  picture.addEventListener("pointermove", (event) => {
    const frame = picture.getBoundingClientRect();
    const share = ((event.clientX - frame.left) / frame.width * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
    show(nearest(all, scale.left + share * (scale.right - scale.left)));
  });
  picture.addEventListener("pointerleave", hide);
  picture.addEventListener("blur", hide);
  picture.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (way) { show(place < 0 ? all.length - 1 : place + way); event.preventDefault(); }
  });
  box.append(tip);
};

// One chart of `series`, a list of {label, index, steps, values, deviations?}; null if it is empty.
const drawChart = (title, series, options) => {
  const scale = makeScale(series, options);
  if (scale === null) return null;
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0,
    "aria-label": `${title} over the step` });
  picture.append(...drawAxes(scale, options.marks || []));
  for (const each of series) picture.append(...drawSeries(scale, each, options));
  const box = element("div", { class: "chart" }, picture);
  addReadOut(box, picture, scale, series);
  const note = options.note ? element("small", {}, ` ${options.note}`) : "";
  return element("figure", {}, element("figcaption", {}, title, note), box);
};
