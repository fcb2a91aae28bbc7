// Filters: a box for each value that occurs, and a limit of the error.
const filters = document.getElementById("filters");

function update() {
  const tried = trials.filter((t) => !isDefault(t));
  document.getElementById("count").textContent = `${tried.filter(shown).length} of ${tried.length} trials shown`;
  drawOpen();
  fillTable();
}

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
const limit = make("input", { type: "number", min: "0", step: "any", placeholder: "any" });
limit.addEventListener("input", () => {
  mostError = limit.value === "" || !(Number(limit.value) > 0) ? Infinity : Number(limit.value);
  update();
});
const reset = make("button", { type: "button", textContent: "Show everything" });
reset.addEventListener("click", () => {
  hidden.forEach((values) => values.clear());
  filters.querySelectorAll("input[type=checkbox]").forEach((box) => { box.checked = true; });
  limit.value = "";
  mostError = Infinity;
  update();
});
filters.append(make("fieldset", {}, make("legend", { textContent: "relative error" }), make("label", {}, "at most ", limit)), reset);
chooser.addEventListener("change", update);
update();
openTarget();
