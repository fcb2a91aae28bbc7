// The chart of each workload: coloured as chosen, of what the filters leave.
const SHAPE_OF = { MEASURED: "circle", INACCURATE: "cross", STALLS: "triangle", OUT_OF_MEMORY: "square" };
const COLORS = 10; // --c0 and so on, of the page's styles
const chooser = document.getElementById("color");
for (const { name } of [...features, ...scales]) chooser.add(new Option(name, name));

function tipLines(t) {
  const lines = [`${t.name} (${isDefault(t) ? "default" : `#${t.trial}`})`,
    `${digits(t.latency)} ms${t.low === t.high ? "" : ` (${digits(t.low)} to ${digits(t.high)})`}, ${t.memory.toFixed(1)} MiB`];
  if (t.gpu !== null) lines.push(`GPU ${digits(t.gpu)} ms, host ${digits(t.host)} ms: ${t.bound} binds`);
  lines.push(`error ${errorOf(t)}` + (t.roofline === null ? "" : `, ${Number((100 * t.roofline).toPrecision(2))} % of roofline speed`));
  const values = Object.entries(t.values).map(([axis, value]) => `${axis} ${value}`);
  for (let start = 0; start < values.length; start += 3) lines.push(values.slice(start, start + 3).join(", "));
  if (t.outcome !== "MEASURED") lines.push(`${t.outcome}: ${t.reason.slice(0, 160)}`);
  return lines;
}

// How points are coloured: a colour for each, and the legend's entries.
function coloring(tried) {
  const scale = scales.find((one) => one.name === chooser.value);
  if (scale) {
    const values = tried.map(scale.of).filter((value) => value !== null);
    const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    const shade = (value) => `hsl(${250 - 200 * (high > low ? (value - low) / (high - low) : 0)} 70% 50%)`;
    const steps = high > low ? [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low)) : [low];
    return {
      of: (t) => (scale.of(t) === null ? "var(--soft)" : shade(scale.of(t))),
      legend: values.length ? steps.map((value) => [shade(value), scale.form(value)]) : [],
    };
  }
  const feature = features.find((one) => one.name === chooser.value);
  const color = (value) => `var(--c${feature.values.indexOf(value) % COLORS})`;
  const there = new Set(tried.map((t) => String(feature.of(t))));
  return {
    of: (t) => color(String(feature.of(t))),
    legend: feature.values.filter((value) => there.has(value)).map((value) => [color(value), value]),
  };
}

function marksOf(place, mine) {
  const names = new Map();
  for (const [choice, number] of Object.entries(data.workloads[place].winners)) {
    const t = mine.find((one) => one.trial === number);
    if (t) names.set(t, [...(names.get(t) || []), choice]);
  }
  const standard = mine.find(isDefault);
  if (standard) names.set(standard, ["default", ...(names.get(standard) || [])]);
  return [...names].map(([t, words]) => ({ x: t.memory, y: t.latency, text: `${words.join(", ")} ${digits(t.latency)}${isPhone() ? "" : " ms"}` }));
}

function drawWorkload(element) {
  const place = Number(element.dataset.workload);
  const mine = trials.filter((t) => t.workload === place && t.latency !== null && shown(t));
  if (!mine.length) {
    element.replaceChildren(make("p", { className: "soft", textContent: "No configuration with numbers is left to draw." }));
    return;
  }
  const tried = mine.filter((t) => !isDefault(t));
  const front = frontOf(mine, data.workloads[place].front), colors = coloring(tried);
  const { roofline } = data.workloads[place];
  const needed = [...front, ...mine.filter(isDefault)];
  const onFront = new Set(front);
  const chart = element.querySelector(".canvas") || make("div", { className: "canvas" });
  chart.dataset.workload = place;
  const used = [...new Set(mine.map((t) => t.outcome))].filter((outcome) => outcome !== "MEASURED");
  const entry = (color, text) => {
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = color;
    return make("li", {}, swatch, text);
  };
  const signs = { cross: "✕", triangle: "▼", square: "■", diamond: "◆" };
  element.replaceChildren(make("ul", { className: "legend" },
    make("li", { className: "soft", textContent: `${chooser.value}:` }),
    ...colors.legend.map(([color, text]) => entry(color, text)),
    make("li", { textContent: "◆ default" }),
    ...used.map((outcome) => make("li", { textContent: `${signs[SHAPE_OF[outcome]] || signs.square} ${outcome}` }))), chart);
  drawChart(chart, {
    points: [...tried, ...mine.filter(isDefault)].map((t) => ({
      x: t.memory, y: t.latency, color: isDefault(t) ? "var(--ink)" : colors.of(t), large: onFront.has(t) || isDefault(t),
      shape: isDefault(t) ? "diamond" : SHAPE_OF[t.outcome] || "square", lines: () => tipLines(t),
    })),
    front: front.map((t) => [t.memory, t.latency]),
    marks: marksOf(place, mine),
    levels: roofline ? [{ axis: "x", value: roofline.memory, text: "roofline" }, { axis: "y", value: roofline.latency, text: "roofline" }] : [],
    needed: { x: (needed.length ? needed : mine).map((t) => t.memory), y: (needed.length ? needed : mine).map((t) => t.latency) },
    titles: { x: "peak memory, MiB →", y: "↑ latency of a step, ms" },
  });
}

const figures = [...document.querySelectorAll(".figure")];
const folds = [...document.querySelectorAll("details.workload")];
const drawOpen = () => figures.filter((element) => element.offsetParent).forEach(drawWorkload);
folds.forEach((fold) => fold.addEventListener("toggle", () => { if (fold.open) fold.querySelectorAll(".figure").forEach(drawWorkload); }));

// A cell of the map opens its workload.
function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const fold = target && target.closest("details.workload");
  if (!fold) return;
  fold.open = true;
  fold.scrollIntoView();
}
window.addEventListener("hashchange", openTarget);
document.querySelectorAll('a[href^="#w"]').forEach((link) => link.addEventListener("click", () => {
  if (link.hash === location.hash) openTarget(); // the same cell again, which changes no hash
}));
const unfold = document.getElementById("unfold");
if (unfold) unfold.addEventListener("click", () => {
  const open = folds.some((fold) => !fold.open);
  folds.forEach((fold) => { fold.open = open; });
  unfold.textContent = open ? "Close all" : "Open all";
});
let lastWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === lastWidth) return; // a phone's address bar comes and goes
  lastWidth = window.innerWidth;
  drawOpen();
});
if (isPhone()) document.getElementById("glossary").open = false;

// Printing: everything unfolded and drawn, then as before.
let wereOpen = [];
window.addEventListener("beforeprint", () => {
  wereOpen = folds.filter((fold) => fold.open);
  folds.forEach((fold) => { fold.open = true; });
  figures.forEach(drawWorkload);
});
window.addEventListener("afterprint", () => folds.forEach((fold) => { fold.open = wereOpen.includes(fold); }));
