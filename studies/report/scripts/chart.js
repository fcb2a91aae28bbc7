// A chart of points over two logarithmic axes, as SVG that styles of the page colour.
const SHAPES = {
  circle: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
  cross: "M-5 -3.4l1.6 -1.6l3.4 3.4l3.4 -3.4l1.6 1.6l-3.4 3.4l3.4 3.4l-1.6 1.6l-3.4 -3.4l-3.4 3.4l-1.6 -1.6l3.4 -3.4z",
  triangle: "M-5.5 -4.5h11l-5.5 9.5z",
  square: "M-4.5 -4.5h9v9h-9z",
  diamond: "M0 -7l7 7l-7 7l-7 -7z",
};

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const tip = make("div", { className: "tip", hidden: true });
document.body.append(tip);
window.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

function showTip(point, event) {
  tip.replaceChildren(...point.lines().map((line) => make("div", { textContent: line })));
  tip.hidden = false;
  const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
  const above = event.clientY + 18 + tip.offsetHeight > window.innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above ? Math.max(8, event.clientY - tip.offsetHeight - 14) : event.clientY + 18}px`;
}

// Labels beside their points: each where it covers no other label and no point that matters.
const LETTER = 7.8, LINE = 17; // of a label, in pixels
const BESIDE = [[1, -12], [1, 22], [-1, -12], [-1, 22], [1, -30], [1, 40], [-1, -30], [-1, 40], [0, -16], [0, 28], [0, -34], [0, 46], [0, -52], [0, 64]];

function labelsOf(marks, width, height) {
  const taken = marks.map(({ left, top }) => ({ left: left - 8, right: left + 8, top: top - 8, bottom: top + 8, weight: 1 }));
  const covered = (box) => taken.filter((one) => one.left < box.right && box.left < one.right && one.top < box.bottom && box.top < one.bottom)
    .reduce((sum, one) => sum + one.weight, 0);
  return marks.flatMap((mark) => {
    const long = mark.text.length * LETTER;
    const places = BESIDE.map(([side, down]) => {
      const centred = Math.max(0, Math.min(width - long, mark.left - long / 2));
      const begin = side ? mark.left + side * 16 - (side < 0 ? long : 0) : centred, base = mark.top + down;
      const box = { left: begin, right: begin + long, top: base - LINE + 4, bottom: base + 4 };
      const outside = box.left < 0 || box.right > width || box.top < 0 || box.bottom > height;
      return { side, begin, base, box, cost: covered(box) + (outside ? 10 : 0) };
    });
    const best = places.reduce((one, other) => (other.cost < one.cost ? other : one));
    taken.push({ ...best.box, weight: 4 }); // a label over a label can be read by nobody
    return [
      svg("path", { class: "leader", d: `M${mark.left} ${mark.top}L${mark.left + best.side * 14} ${best.base - 4}` }),
      svg("text", { class: "label", x: best.begin + (1 - best.side) * long / 2, y: best.base, "text-anchor": ["end", "middle", "start"][best.side + 1] }, mark.text),
    ];
  });
}

// chart: points {x, y, color, shape, large, lines}, front [[x, y]], marks {x, y, text},
// levels {axis, value, text}, needed {x, y}, titles {x, y}.
function drawChart(element, chart, view = {}) {
  const width = Math.max(260, element.clientWidth), height = isPhone() ? 340 : 420;
  const margin = { left: isPhone() ? 46 : 58, right: 10, top: 10, bottom: 44 };
  const inner = { width: width - margin.left - margin.right, height: height - margin.top - margin.bottom };
  const whole = (name) => {
    const values = chart.points.map((point) => point[name]);
    const room = (Math.max(...values) / Math.min(...values)) ** 0.05;
    return [Math.min(...values) / room, Math.max(...values) * room];
  };
  const reach = (name) => view[name] || (view.whole ? whole(name)
    : reachOf(chart.points.map((point) => point[name]), chart.needed[name]));
  const ends = { x: reach("x"), y: reach("y") };
  const share = (name, value) => Math.log(value / ends[name][0]) / Math.log(ends[name][1] / ends[name][0]);
  const across = (value) => share("x", value) * inner.width;
  const up = (value) => (1 - share("y", value)) * inner.height;
  const within = (name, value) => value >= ends[name][0] && value <= ends[name][1];

  const plane = svg("g", { transform: `translate(${margin.left} ${margin.top})` });
  for (const tick of ticksOf(ends.x, isPhone() ? 5 : 9)) {
    plane.append(svg("path", { class: "grid", d: `M${across(tick)} 0V${inner.height}` }),
      svg("text", { class: "tick", x: across(tick), y: inner.height + 16, "text-anchor": "middle" }, tickText(tick)));
  }
  for (const tick of ticksOf(ends.y, 7)) {
    plane.append(svg("path", { class: "grid", d: `M0 ${up(tick)}H${inner.width}` }),
      svg("text", { class: "tick", x: -6, y: up(tick) + 4, "text-anchor": "end" }, tickText(tick)));
  }
  plane.append(svg("text", { class: "title", x: inner.width, y: inner.height + 36, "text-anchor": "end" }, chart.titles.x),
    svg("text", { class: "title halo", x: 6, y: 14 }, chart.titles.y));
  for (const { axis, value, text } of chart.levels) {
    if (!within(axis, value)) continue;
    const at = axis === "x" ? across(value) : up(value);
    plane.append(svg("path", { class: "roofline", d: axis === "x" ? `M${at} 0V${inner.height}` : `M0 ${at}H${inner.width}` }),
      svg("text", axis === "x" ? { class: "tick halo", x: at + 4, y: inner.height - 6 }
        : { class: "tick halo", x: inner.width - 4, y: at - 5, "text-anchor": "end" }, text));
  }
  const clip = `clip-${element.dataset.workload}`;
  plane.append(svg("clipPath", { id: clip }, svg("rect", { width: inner.width, height: inner.height })));
  if (chart.front.length) {
    const steps = chart.front.map(([x, y], place) => (place ? `H${across(x)}V${up(y)}` : `M${across(x)} ${up(y)}`));
    plane.append(svg("path", { class: "front", d: steps.join(""), "clip-path": `url(#${clip})` }));
  }
  let beyond = 0;
  const placed = chart.points.map((point) => {
    const inside = within("x", point.x) && within("y", point.y);
    beyond += !inside;
    const left = Math.max(0, Math.min(inner.width, across(point.x))), top = Math.max(0, Math.min(inner.height, up(point.y)));
    plane.append(svg("path", {
      class: `point${!inside ? " beyond" : point.large ? " large" : ""}`, style: `fill: ${point.color}`,
      d: SHAPES[point.shape], transform: `translate(${left} ${top})${!inside ? " scale(.8)" : point.large ? " scale(1.3)" : ""}`,
    }));
    return { point, left, top };
  });
  const marks = chart.marks.filter((mark) => within("x", mark.x) && within("y", mark.y))
    .map((mark) => ({ ...mark, left: across(mark.x), top: up(mark.y) }));
  plane.append(...labelsOf(marks, inner.width, inner.height));

  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, plane);
  const redraw = (other) => drawChart(element, chart, other);
  const zoomed = view.x || view.y;
  const hint = make("p", { className: "soft screen" });
  if (zoomed || view.whole) {
    const back = make("button", { type: "button", textContent: zoomed ? "Show all again" : "Leave outliers at the edges" });
    back.addEventListener("click", () => redraw({}));
    hint.append(back);
  } else if (beyond) {
    const all = make("button", { type: "button", textContent: "Show all" });
    all.addEventListener("click", () => redraw({ whole: true }));
    hint.append(`${beyond} of ${chart.points.length} points lie beyond the axes and are drawn at their edges. `, all);
  }
  element.replaceChildren(drawing, ...(hint.childNodes.length ? [hint] : []));
  watchPointer(drawing, { placed, margin, inner, ends, redraw });
}

// Hovering or tapping tells of the nearest point; dragging with a mouse enlarges a part.
function watchPointer(drawing, { placed, margin, inner, ends, redraw }) {
  const locate = (event) => {
    const box = drawing.getBoundingClientRect();
    return [event.clientX - box.left - margin.left, event.clientY - box.top - margin.top];
  };
  let began = null, frame = null;
  const tell = (event) => {
    const [left, top] = locate(event);
    let nearest = null, least = event.pointerType === "touch" ? 32 : 18;
    for (const one of placed) {
      const distance = Math.hypot(one.left - left, one.top - top);
      if (distance < least) [nearest, least] = [one, distance];
    }
    if (nearest) showTip(nearest.point, event); else tip.hidden = true;
  };
  drawing.addEventListener("pointermove", (event) => {
    if (!began) { tell(event); return; }
    const [left, top] = locate(event);
    if (!frame) drawing.append(frame = svg("rect", { class: "frame" }));
    const box = { x: Math.min(left, began[0]) + margin.left, y: Math.min(top, began[1]) + margin.top, width: Math.abs(left - began[0]), height: Math.abs(top - began[1]) };
    for (const [name, value] of Object.entries(box)) frame.setAttribute(name, value);
  });
  drawing.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) {
      event.preventDefault();
      drawing.setPointerCapture(event.pointerId);
      began = locate(event);
      tip.hidden = true;
    } else tell(event);
  });
  drawing.addEventListener("pointerup", (event) => {
    const [left, top] = locate(event), from = began;
    began = null;
    if (frame) frame.remove();
    frame = null;
    if (!from || Math.abs(left - from[0]) < 12 || Math.abs(top - from[1]) < 12) return;
    const value = (name, share) => ends[name][0] * (ends[name][1] / ends[name][0]) ** Math.min(1, Math.max(0, share));
    const part = (name, one, other) => [one, other].sort((a, b) => a - b).map((share) => value(name, share));
    redraw({
      x: part("x", from[0] / inner.width, left / inner.width),
      y: part("y", 1 - from[1] / inner.height, 1 - top / inner.height),
    });
  });
  drawing.addEventListener("pointerleave", (event) => {
    // A lifted finger leaves, too: what it tapped stays until the page scrolls.
    if (!began && event.pointerType !== "touch") tip.hidden = true;
  });
}
