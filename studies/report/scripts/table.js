// The table of all trials: sorted by a column, the defaults and what has no number last.
const COLUMNS = [
  ["trial", (t) => t.trial, (t) => (isDefault(t) ? "default" : `#${t.trial}`)],
  ["workload", (t) => t.workload, (t) => data.workloads[t.workload].label],
  ["variant", (t) => t.name, (t) => t.name],
  ["latency ms", (t) => t.latency, (t) => (t.latency === null ? "–" : digits(t.latency))],
  ["GPU ms", (t) => t.gpu, (t) => (t.gpu === null ? "" : digits(t.gpu))],
  ["peak MiB", (t) => t.memory, (t) => (t.memory === null ? "–" : t.memory.toFixed(1))],
  ["error", (t) => (t.latency !== null && t.error === null ? Infinity : t.error), errorOf],
  ["outcome", (t) => t.outcome, (t) => t.outcome],
  ["reason", (t) => t.reason || null, (t) => t.reason],
].filter(([name]) => name !== "workload" || data.workloads.length > 1);
const NUMBERS = new Set(["trial", "latency ms", "GPU ms", "peak MiB", "error"]);
const FIRST = 50;
let sorting = { column: 0, direction: 1 };
let everything = false;
const table = document.getElementById("table");
const search = document.getElementById("find");
const more = document.getElementById("more");

function classOf(name, t) {
  if (NUMBERS.has(name)) return "number";
  return name === "outcome" && t.outcome !== "MEASURED" ? "of-outcome outcome" : `of-${name}`;
}

function compareTrials(a, b) {
  if (isDefault(a) !== isDefault(b)) return isDefault(a) ? 1 : -1;
  const [x, y] = [a, b].map(COLUMNS[sorting.column][1]);
  if (x === y) return 0;
  if (x === null) return 1;
  if (y === null) return -1;
  return (x < y ? -1 : 1) * sorting.direction;
}

function fillTable() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = trials.filter(shown).filter((t) => {
    const text = `${data.workloads[t.workload].label} ${t.name} ${t.outcome} ${t.reason}`.toLowerCase();
    return words.every((word) => text.includes(word));
  }).sort(compareTrials);
  const heads = COLUMNS.map(([name], column) => {
    const button = make("button", { type: "button", textContent: name });
    button.addEventListener("click", () => {
      sorting = { column, direction: sorting.column === column ? -sorting.direction : 1 };
      fillTable();
    });
    const head = make("th", { scope: "col", className: NUMBERS.has(name) ? "number" : "" }, button);
    if (sorting.column === column) head.ariaSort = sorting.direction > 0 ? "ascending" : "descending";
    return head;
  });
  const rows = (everything ? found : found.slice(0, FIRST)).map((t) => make("tr", { className: isDefault(t) ? "default" : "" },
    ...COLUMNS.map(([name, , text]) => {
      const cell = make("td", { textContent: text(t), className: classOf(name, t) });
      cell.dataset.label = name;
      return cell;
    })));
  table.replaceChildren(make("caption", { textContent: `${found.length} of ${trials.length}, the defaults last.` }),
    make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
  more.hidden = everything || found.length <= FIRST;
  more.textContent = `Show all ${found.length}`;
}
search.addEventListener("input", fillTable);
more.addEventListener("click", () => { everything = true; fillTable(); });
