"use strict";
/* Sorts tables, gives them out as CSV and LaTeX, and folds sections on a phone. Without it, the page is complete. */
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  /* Sections are folded on a phone, until a link leads to one, or the page is printed. */
  if (matchMedia("(max-width: 44rem)").matches) {
    all("details.fold").forEach((one) => { one.open = false; });
    document.body.classList.add("folded");
  }
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let one = target.closest("details"); one; one = one.parentElement.closest("details")) one.open = true;
    target.scrollIntoView();
  };
  all("nav a").forEach((link) => link.addEventListener("click", () => setTimeout(reveal)));
  addEventListener("hashchange", reveal);
  if (location.hash) reveal();
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    folded.forEach((one) => { one.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));

  /* A click on the head of a column sorts by it: the largest number first, or texts from A to Z; then the other way. */
  const sort = (table, head, column) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, value: row.cells[column].dataset.value ?? "" }));
    const numeric = rows.every(({ value }) => value === "" || !Number.isNaN(Number(value)));
    const first = numeric ? "descending" : "ascending";
    const order = head.ariaSort === first ? (numeric ? "ascending" : "descending") : first;
    const sign = order === "ascending" ? 1 : -1;
    rows.sort((a, b) => {
      if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "");
      return sign * (numeric ? a.value - b.value : a.value.localeCompare(b.value));
    });
    body.append(...rows.map(({ row }) => row));
    [...table.tHead.rows[0].cells].forEach((cell) => { cell.ariaSort = null; });
    head.ariaSort = order;
  };
  all("table.sheet").forEach((table) => [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, head, column));
  }));

  /* CSV is saved as a file, LaTeX is copied; where copying is not allowed, it is saved, too. */
  const save = (text, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const say = (button, text) => {
    const before = button.textContent;
    button.textContent = text;
    setTimeout(() => { button.textContent = before; }, 1500);
  };
  all(".tools").forEach((tools) => {
    tools.hidden = false;
    all("button", tools).forEach((button) => {
      const source = tools.querySelector(`template[data-kind="${button.dataset.kind}"]`);
      const text = source.content.textContent;
      button.addEventListener("click", async () => {
        try {
          if (button.dataset.kind !== "latex") throw new Error("a file");
          await navigator.clipboard.writeText(text);
          say(button, "Copied");
        } catch {
          save(text, source.dataset.name);
          say(button, "Saved");
        }
      });
    });
  });
})();
