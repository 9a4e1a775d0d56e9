"use strict";
// Two conveniences on a page that is complete without them: figures beside the pointer, and tables that can be sorted.

for (const plot of document.querySelectorAll(".plot")) {
  const table = document.getElementById(`${plot.dataset.chart}-table`);
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows];
  const drawing = plot.querySelector("svg");
  const band = plot.querySelector(".band");
  const tip = document.createElement("output");
  let shown = -1;
  tip.className = "tip";
  tip.hidden = true;
  plot.append(tip);
  plot.tabIndex = 0;
  plot.setAttribute("aria-label", `${plot.getAttribute("aria-label")} The arrow keys go from one ${heads[0].textContent.toLowerCase()} to the next.`);

  const hide = () => {
    shown = -1;
    tip.hidden = true;
    band.setAttribute("visibility", "hidden");
  };
  const line = (head, cell) => {
    const row = document.createElement("span");
    const colour = document.createElement("i");
    const name = document.createElement("bdi");
    const value = document.createElement("b");
    colour.className = head.dataset.colour || "";
    name.textContent = head.textContent;
    value.textContent = cell.textContent;
    row.append(colour, name, " ", value);
    return row;
  };
  const show = (index) => {
    if (index === shown) return;
    shown = index;
    const [period, ...cells] = rows[index].cells;
    const title = document.createElement("strong");
    title.textContent = period.textContent;
    // A part of nothing in this period is not worth a line, unless all of them are.
    const parts = cells.map((cell, place) => [heads[place + 1], cell]);
    const told = parts.filter(([head, cell]) => !head.dataset.colour || /[1-9]/.test(cell.textContent));
    tip.replaceChildren(title, ...told.map(([head, cell]) => line(head, cell)));
    tip.hidden = false;
    band.setAttribute("x", `${(100 * index) / rows.length}%`);
    band.setAttribute("visibility", "visible");
    const area = drawing.getBoundingClientRect();
    const frame = plot.getBoundingClientRect();
    const middle = area.left - frame.left + (area.width * (index + 0.5)) / rows.length;
    const gap = area.width / rows.length / 2 + 10;
    const right = middle + gap + tip.offsetWidth <= frame.width;
    const left = right ? middle + gap : middle - gap - tip.offsetWidth;
    tip.style.transform = `translate(${Math.max(0, Math.min(left, frame.width - tip.offsetWidth))}px, 4px)`;
  };
  plot.addEventListener("pointermove", (event) => {
    const area = drawing.getBoundingClientRect();
    const place = Math.floor(((event.clientX - area.left) / area.width) * rows.length);
    if (place >= 0 && place < rows.length) show(place);
    else hide();
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const last = rows.length - 1;
    const next = {
      ArrowRight: Math.min(shown + 1, last),
      ArrowLeft: shown < 0 ? last : Math.max(shown - 1, 0),
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Escape") hide();
    if (next === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    show(next);
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const numeric = head.classList.contains("n");
    const value = (row) => {
      const cell = row.cells[place];
      return numeric ? Number(cell.dataset.value) : cell.textContent;
    };
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const order = before ? (before === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
      const sign = order === "ascending" ? 1 : -1;
      const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, { numeric: true });
      const rows = [...body.rows].map((row) => [value(row), row]);
      rows.sort((a, b) => sign * compare(a[0], b[0]));
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      body.append(...rows.map(([, row]) => row));
    });
  });
}
