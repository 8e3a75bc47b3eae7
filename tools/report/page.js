"use strict";
const table = document.getElementById("utterances");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];

function value(row, column, numeric) {
  const text = row.cells[column].textContent.trim();
  if (!numeric) return text.toLowerCase();
  const number = parseFloat(text.replace("−", "-"));
  return Number.isNaN(number) ? -Infinity : number;
}

function sort(column) {
  const numeric = heads[column].classList.contains("n");
  const down = heads[column].ariaSort ? heads[column].ariaSort === "ascending" : numeric;
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
  const rows = [...body.rows].map((row) => [value(row, column, numeric), row]);
  rows.sort((x, y) => order(x[0], y[0]));
  body.append(...rows.map((pair) => pair[1]));
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
}

heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  button.addEventListener("click", () => sort(column));
  head.replaceChildren(button);
});

const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const wanted = filter.value.trim().toLowerCase();
  let shown = 0;
  for (const row of body.rows) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
    shown += !row.hidden;
  }
  document.getElementById("shown").textContent = `${shown} of ${body.rows.length}`;
});
document.querySelector(".filter").hidden = false;
