"use strict";
// A click on a heading sorts the rows of its table by that column; a second click reverses them.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.querySelectorAll("thead th")];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const sign = heading.ariaSort === "descending" ? 1 : -1;
      const key = (row) => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
      };
      const compare = (a, b) => (typeof a === "string" ? -a.localeCompare(b) : a - b);
      const rows = [...table.tBodies[0].rows].sort((a, b) => sign * compare(key(a), key(b)));
      table.tBodies[0].append(...rows);
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.ariaSort = sign < 0 ? "descending" : "ascending";
    });
  });
}
