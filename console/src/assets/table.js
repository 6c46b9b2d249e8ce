// A table: rows of cells on wide screens, cards on narrow ones.
import { h } from "./dom.js";

const isNone = (content) => content === null || content === undefined || content === "" || content === "–";

/**
 * `columns`: `{ label, key, number, isOptional, cell(row), sort(row) }`. The first one is the heading of its row. An
 * optional one is left out if no row has it. `sorting` is
 * `{ key, down, change(key) }` where a click on a heading sorts.
 */
export function table(caption, all, rows, sorting) {
  const columns = all.filter((column) => !column.isOptional || rows.some((row) => !isNone(column.cell(row))));
  const heading = (column) => {
    const isSorted = sorting && column.sort && sorting.key === column.key;
    const label = sorting && column.sort
      ? h("button", { type: "button", onclick: () => sorting.change(column.key) }, column.label) : column.label;
    return h("th", { scope: "col", class: column.number ? "number" : null,
      "aria-sort": isSorted ? (sorting.down ? "descending" : "ascending") : null }, label);
  };
  const cell = (column, row, isFirst) => {
    const content = column.cell(row);
    const classes = [column.number && "number", isNone(content) && "none", column.isBad?.(row) && "bad"].filter(Boolean).join(" ");
    return h(isFirst ? "th" : "td", { scope: isFirst ? "row" : null, class: classes || null, "data-label": column.label }, content);
  };
  return h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    h("table", { class: "rows" },
      h("thead", null, h("tr", null, columns.map(heading))),
      h("tbody", null, rows.map((row) => h("tr", null, columns.map((column, index) => cell(column, row, index === 0)))))));
}

export function sorted(columns, rows, key, down) {
  const column = columns.find((one) => one.key === key);
  if (!column?.sort) return rows;
  const value = (row) => column.sort(row) ?? -1;
  const order = (one, other) => (typeof value(one) === "string" ? value(one).localeCompare(value(other)) : value(one) - value(other));
  return [...rows].sort((one, other) => (down ? order(other, one) : order(one, other)));
}
