// A click (or Enter) on a column's heading sorts its table; a second one turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, column) => heading.querySelector("button")?.addEventListener("click", () => {
    const direction = heading.ariaSort === "ascending" ? -1 : 1;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    const compare = (a, b) => a.dataset.value !== undefined ? a.dataset.value - b.dataset.value
      : a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
    body.append(...[...body.rows].sort((a, b) => direction * compare(a.cells[column], b.cells[column])));
  }));
}
