"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  // Okabe and Ito's palette, which colour-blind readers can tell apart, and two greys.
  const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1",
    "#6F6F6F", "#1B2733", "#B5B000"];
  const SYMBOLS = { MEASURED: "circle", INACCURATE: "x", STALLS: "triangle-down", OUT_OF_MEMORY: "square" };
  const TICKS = { type: "log", tickformat: ",.3~r", nticks: 5, zeroline: false, gridcolor: "#e6eaee" };
  const phone = () => window.innerWidth < 640;
  const config = () => ({
    responsive: true, displaylogo: false, displayModeBar: phone() ? false : "hover",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  });

  // What points may be coloured and filtered by: outcome, each axis of the variant, what binds.
  const isDefault = (t) => t.trial === null;
  const present = (values) => [...new Set(values)];
  const features = [
    { name: "outcome", of: (t) => t.outcome, order: data.outcomes },
    ...Object.entries(data.axes).map(([axis, order]) => ({ name: axis, of: (t) => t.values[axis], order })),
    { name: "backend that ran", of: (t) => t.ran || "unknown", order: [] },
    { name: "bound by", of: (t) => t.bound || "unknown", order: [] },
  ].map((feature) => {
    const found = present(data.trials.filter((t) => !isDefault(t)).map((t) => String(feature.of(t))));
    const known = feature.order.map(String).filter((value) => found.includes(value));
    return { ...feature, values: [...known, ...found.filter((value) => !known.includes(value)).sort()] };
  });
  const scales = [
    { name: "trial number", of: (t) => t.trial, title: "trial" },
    { name: "relative error", of: (t) => (t.error > 0 ? Math.log10(t.error) : null), title: "log₁₀ error" },
  ];

  const hidden = new Map(features.map((feature) => [feature.name, new Set()]));
  let most = Infinity; // relative error
  const shown = (t) => isDefault(t) ||
    (features.every((feature) => !hidden.get(feature.name).has(String(feature.of(t)))) &&
      (most === Infinity || (t.error !== null && t.error !== undefined && t.error <= most)));

  const digits = (value) => (value < 99.95 ? value.toPrecision(3) : value.toFixed(0));
  const escaped = (text) => String(text).replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`);
  const error = (t) => (t.error === undefined ? "" : t.error === null ? "not finite" : t.error.toExponential(1));

  function hover(t) {
    const lines = [`<b>${escaped(t.name)}</b> (${isDefault(t) ? "default" : `#${t.trial}`})`];
    const span = t.low === t.high ? "" : ` (${digits(t.low)} to ${digits(t.high)})`;
    lines.push(`${digits(t.latency)} ms${span}, ${digits(t.memory)} MiB`);
    lines.push(t.gpu === null ? "" : `GPU ${digits(t.gpu)} ms, host ${digits(t.host)} ms: ${escaped(t.bound)} binds`);
    lines.push(`error ${error(t)}` + (t.roofline === null ? "" : `, ${(100 * t.roofline).toPrecision(2)} % of roofline speed`));
    const values = Object.entries(t.values).map(([axis, value]) => `${escaped(axis)} ${escaped(value)}`);
    for (let start = 0; start < values.length; start += 3) lines.push(values.slice(start, start + 3).join(", "));
    if (t.outcome !== "MEASURED") lines.push(`<b>${escaped(t.outcome)}</b>: ${escaped(t.reason).slice(0, 160)}`);
    return lines.filter(Boolean).join("<br>");
  }

  // The study's front as long as all of it is shown, else that of what is left.
  function frontOf(trials, known) {
    const whole = trials.filter((t) => t.outcome === "MEASURED" && known.includes(t.trial));
    if (whole.length === known.length) return whole.sort((a, b) => a.memory - b.memory);
    const sorted = trials.filter((t) => t.outcome === "MEASURED")
      .sort((a, b) => a.memory - b.memory || a.latency - b.latency);
    const front = [];
    for (const t of sorted) if (!front.length || t.latency < front[front.length - 1].latency) front.push(t);
    return front;
  }

  function points(trials, name, marker) {
    return {
      type: "scatter", mode: "markers", name, x: trials.map((t) => t.memory), y: trials.map((t) => t.latency),
      text: trials.map(hover), hovertemplate: "%{text}<extra></extra>",
      marker: { size: 9, symbol: trials.map((t) => SYMBOLS[t.outcome] || "hexagon"), line: { width: 0.5, color: "#fff" }, ...marker },
    };
  }

  function traces(place, coloring) {
    const workload = data.workloads[place];
    const mine = data.trials.filter((t) => t.workload === place && t.latency !== undefined && shown(t));
    const tried = mine.filter((t) => !isDefault(t));
    const front = frontOf(mine, workload.front);
    const drawn = [{
      type: "scatter", mode: "lines", name: "front", x: front.map((t) => t.memory), y: front.map((t) => t.latency),
      line: { shape: "hv", color: "#1b2733", width: 1.5 }, hoverinfo: "skip",
    }];
    const scale = scales.find((one) => one.name === coloring);
    if (scale) {
      drawn.push({ ...points(tried, "trials", {
        color: tried.map(scale.of), colorscale: "Viridis", showscale: true,
        colorbar: { title: { text: scale.title }, thickness: 12, len: 0.8 },
      }), showlegend: false });
    } else {
      const feature = features.find((one) => one.name === coloring);
      feature.values.forEach((value, index) => {
        const those = tried.filter((t) => String(feature.of(t)) === value);
        if (those.length) drawn.push(points(those, escaped(value), { color: PALETTE[index % PALETTE.length] }));
      });
    }
    const best = tried.filter((t) => t.trial === workload.balanced);
    if (best.length) {
      drawn.push({ ...points(best, "balanced winner", {}), hoverinfo: "skip", hovertemplate: null,
        marker: { size: 17, symbol: "circle-open", color: "#1b2733", line: { width: 2 } } });
    }
    const usual = mine.filter(isDefault);
    if (usual.length) drawn.push(points(usual, "PyTorch's default", { size: 15, symbol: "star", color: "#1b2733" }));
    if (workload.roofline) {
      const { memory, latency } = workload.roofline;
      drawn.push({
        type: "scatter", mode: "markers", name: "roofline", x: [memory], y: [latency],
        marker: { size: 12, symbol: "line-ne-open", color: "#8a3b00", line: { width: 2, color: "#8a3b00" } },
        hovertemplate: `roofline: nothing that was tried can need less than<br>${digits(latency)} ms or ${digits(memory)} MiB<extra></extra>`,
      });
    }
    return drawn;
  }

  function layout(place) {
    const roofline = data.workloads[place].roofline;
    const line = { dash: "dot", width: 1.5, color: "#8a3b00" };
    return {
      xaxis: { ...TICKS, title: { text: "peak memory, MiB", standoff: 8 } },
      yaxis: { ...TICKS, title: { text: "latency of a step, ms", standoff: 8 } },
      shapes: roofline ? [
        { type: "line", xref: "paper", x0: 0, x1: 1, y0: roofline.latency, y1: roofline.latency, line },
        { type: "line", yref: "paper", y0: 0, y1: 1, x0: roofline.memory, x1: roofline.memory, line },
      ] : [],
      margin: { t: 8, r: 12, l: 64, b: 44 }, font: { size: phone() ? 11 : 13, color: "#1b2733" },
      legend: { orientation: "h", y: -0.2, yanchor: "top", x: 0 },
      hoverlabel: { align: "left", bgcolor: "#fff", font: { size: 12 } },
      hovermode: "closest", dragmode: phone() ? false : "zoom", plot_bgcolor: "#fff", paper_bgcolor: "#fff",
    };
  }

  const chooser = document.getElementById("color");
  for (const { name } of [...features, ...scales]) chooser.add(new Option(name, name));
  const drawn = new Set();

  function draw(element) {
    if (element.dataset.workload !== undefined) {
      const place = Number(element.dataset.workload);
      Plotly.react(element, traces(place, chooser.value), layout(place), config());
    } else {
      const figure = JSON.parse(document.getElementById(element.dataset.drawing).textContent);
      const more = { title: undefined, font: { size: phone() ? 11 : 13 }, dragmode: phone() ? false : "zoom" };
      const top = figure.layout.annotations ? 36 : 24; // headings of its parts, and the buttons
      Plotly.react(element, figure.data, { ...figure.layout, ...more, margin: { t: top, r: 12, l: 60, b: 45 } }, config());
    }
    drawn.add(element);
  }

  const figures = [...document.querySelectorAll(".figure")];
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting && !drawn.has(target)) draw(target);
  }, { rootMargin: "600px" });
  figures.forEach((element) => seen.observe(element));

  // ---- filters ----
  const filters = document.getElementById("filters");
  const make = (tag, attributes = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  };
  for (const feature of features.filter((one) => one.values.length > 1)) {
    const boxes = feature.values.map((value) => {
      const box = make("input", { type: "checkbox", checked: true, value, name: feature.name });
      box.addEventListener("change", () => {
        hidden.get(feature.name)[box.checked ? "delete" : "add"](value);
        update();
      });
      return make("label", {}, box, ` ${value}`);
    });
    filters.append(make("fieldset", {}, make("legend", { textContent: feature.name }), ...boxes));
  }
  const limit = make("input", { type: "number", min: "0", step: "any", id: "most", placeholder: "any" });
  limit.addEventListener("input", () => {
    most = limit.value === "" || !(Number(limit.value) > 0) ? Infinity : Number(limit.value);
    update();
  });
  filters.append(make("fieldset", {}, make("legend", { textContent: "relative error" }), make("label", {}, "at most ", limit)));
  const reset = make("button", { type: "button", textContent: "Show everything" });
  reset.addEventListener("click", () => {
    hidden.forEach((values) => values.clear());
    filters.querySelectorAll("input[type=checkbox]").forEach((box) => { box.checked = true; });
    limit.value = "";
    most = Infinity;
    update();
  });
  filters.append(reset);

  // ---- the table of all trials ----
  const COLUMNS = [
    ["trial", (t) => (isDefault(t) ? -1 : t.trial), (t) => (isDefault(t) ? "default" : t.trial)],
    ["workload", (t) => t.workload, (t) => data.workloads[t.workload].label],
    ["variant", (t) => t.name, (t) => t.name],
    ["latency ms", (t) => t.latency, (t) => (t.latency === undefined ? "–" : digits(t.latency))],
    ["GPU ms", (t) => t.gpu ?? undefined, (t) => (t.gpu === undefined || t.gpu === null ? "" : digits(t.gpu))],
    ["peak MiB", (t) => t.memory, (t) => (t.memory === undefined ? "–" : t.memory.toFixed(1))],
    ["error", (t) => (t.error === null ? Infinity : t.error), error],
    ["outcome", (t) => t.outcome, (t) => t.outcome],
    ["reason", (t) => t.reason, (t) => t.reason],
  ];
  const NUMBERS = new Set(["trial", "latency ms", "GPU ms", "peak MiB", "error"]);
  const FIRST = 50;
  let sorting = { column: 0, direction: 1 };
  let all = false;
  const table = document.getElementById("table");
  const find = document.getElementById("find");
  const more = document.getElementById("more");

  function compare(a, b) {
    const [x, y] = [a, b].map(COLUMNS[sorting.column][1]);
    if (x === y) return 0;
    if (x === undefined) return 1; // without a number: last, either way
    if (y === undefined) return -1;
    return (x < y ? -1 : 1) * sorting.direction;
  }

  function fill() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = data.trials.filter(shown).filter((t) => {
      const text = `${data.workloads[t.workload].label} ${t.name} ${t.outcome} ${t.reason}`.toLowerCase();
      return words.every((word) => text.includes(word));
    }).sort(compare);
    const heads = COLUMNS.map(([name], column) => {
      const button = make("button", { type: "button", textContent: name });
      button.addEventListener("click", () => {
        sorting = { column, direction: sorting.column === column ? -sorting.direction : 1 };
        fill();
      });
      const head = make("th", { scope: "col", className: NUMBERS.has(name) ? "number" : "" }, button);
      if (sorting.column === column) head.ariaSort = sorting.direction > 0 ? "ascending" : "descending";
      return head;
    });
    const rows = (all ? found : found.slice(0, FIRST)).map((t) => make("tr", { className: isDefault(t) ? "default" : "" },
      ...COLUMNS.map(([name, , text]) => make("td", { textContent: text(t), className: NUMBERS.has(name) ? "number" : "" }))));
    table.replaceChildren(make("caption", { textContent: `${found.length} of ${data.trials.length}, defaults among them.` }),
      make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
    more.hidden = all || found.length <= FIRST;
    more.textContent = `Show all ${found.length}`;
  }
  find.addEventListener("input", fill);
  more.addEventListener("click", () => { all = true; fill(); });

  function update() {
    const trials = data.trials.filter((t) => !isDefault(t));
    document.getElementById("count").textContent = `${trials.filter(shown).length} of ${trials.length} trials shown`;
    drawn.forEach((element) => { if (element.dataset.workload !== undefined) draw(element); });
    fill();
  }
  chooser.addEventListener("change", update);
  update();

  // ---- printing: everything drawn, at the paper's width ----
  const PAPER = 660;
  window.addEventListener("beforeprint", () => {
    figures.forEach((element) => { draw(element); Plotly.relayout(element, { width: PAPER, height: 300 }); });
  });
  window.addEventListener("afterprint", () => {
    figures.forEach((element) => Plotly.relayout(element, { width: null, height: null, autosize: true }));
  });
})();
