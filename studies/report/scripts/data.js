// What the page holds: trials as objects, and what they may be coloured and filtered by.
const data = JSON.parse(document.getElementById("data").textContent);
const cells = (column) => (Array.isArray(column) ? column : column.places.map((place) => column.words[place]));
const columns = Object.entries(data.trials).map(([name, column]) => [name, cells(column)]);
const choices = Object.entries(data.axes).map(([axis, column]) => [axis, cells(column)]);
const trials = (columns.length ? columns[0][1] : []).map((_, place) => ({
  ...Object.fromEntries(columns.map(([name, column]) => [name, column[place]])),
  values: Object.fromEntries(choices.map(([axis, column]) => [axis, column[place]])),
}));

const isDefault = (t) => t.trial === null;
const features = [
  ...Object.entries(data.axes).map(([axis, { order }]) => ({ name: axis, of: (t) => t.values[axis], order })),
  { name: "outcome", of: (t) => t.outcome, order: data.outcomes },
  { name: "backend that ran", of: (t) => t.ran || "unknown", order: [] },
  { name: "bound by", of: (t) => t.bound || "unknown", order: [] },
].map((feature) => {
  const found = [...new Set(trials.filter((t) => !isDefault(t)).map((t) => String(feature.of(t))))];
  const known = feature.order.map(String).filter((value) => found.includes(value));
  return { ...feature, values: [...known, ...found.filter((value) => !known.includes(value)).sort()] };
});
const scales = [
  { name: "trial number", of: (t) => t.trial, form: (value) => value.toFixed(0) },
  { name: "relative error", of: (t) => (t.error > 0 ? Math.log10(t.error) : null), form: (value) => (10 ** value).toExponential(1) },
];

const hidden = new Map(features.map((feature) => [feature.name, new Set()]));
let mostError = Infinity;
const shown = (t) => isDefault(t) ||
  (features.every((feature) => !hidden.get(feature.name).has(String(feature.of(t)))) &&
    (mostError === Infinity || (t.error !== null && t.error <= mostError)));

const digits = (value) => (value < 99.95 ? value.toPrecision(3) : value.toFixed(0));
const errorOf = (t) => (t.latency === null ? "" : t.error === null ? "not finite" : t.error.toExponential(1));
const isPhone = () => window.innerWidth < 640;

function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

// The study's front as long as all of it is shown, else that of what is left.
function frontOf(some, known) {
  const whole = some.filter((t) => t.outcome === "MEASURED" && known.includes(t.trial));
  if (whole.length === known.length) return whole.sort((a, b) => a.memory - b.memory);
  const sorted = some.filter((t) => t.outcome === "MEASURED")
    .sort((a, b) => a.memory - b.memory || a.latency - b.latency);
  const front = [];
  for (const t of sorted) if (!front.length || t.latency < front[front.length - 1].latency) front.push(t);
  return front;
}
