// A table: rows of cells on wide screens, cards on narrow ones.
import { h, patch } from "./dom.js";

const isNone = (content) => content === null || content === undefined || content === "" || content === "–";

/**
 * `columns`: `{ label, key, number, isOptional, cell(row), sort(row) }`. The first one is the heading of its row. An
 * optional one is left out if no row has it. `sorting` is `{ key, down }`: see `sorter`. The table has no listeners, so
 * that it can be patched.
 */
export function table(caption, all, rows, sorting) {
  const columns = all.filter((column) => !column.isOptional || rows.some((row) => !isNone(column.cell(row))));
  const heading = (column) => {
    const isSorted = sorting && column.sort && sorting.key === column.key;
    const label = sorting && column.sort ? h("button", { type: "button", "data-sort": column.key }, column.label) : column.label;
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

/**
 * Sorts the table inside `list` by a click on a heading. Narrow screens show no headings: `element` is a choice for
 * them. `state` is `{ key, down }`; `change` draws again.
 */
export function sorter(list, state, change) {
  const select = h("select", { id: "sort", onchange: () => to(select.value, select.value !== "name") });
  const turn = h("button", { type: "button", onclick: () => to(state.key, !state.down) });
  const element = h("span", { class: "tools narrow" }, h("label", { for: "sort" }, "Sorted by", select), turn);
  let shown = "";
  list.addEventListener("click", ({ target }) => {
    const key = target.closest?.("th button")?.dataset.sort;
    if (key) to(key, key === state.key ? !state.down : key !== "name");
  });
  function to(key, down) {
    Object.assign(state, { key, down });
    show();
    change();
  }
  function show() {
    select.value = state.key;
    turn.textContent = state.down ? "Descending ▼" : "Ascending ▲";
  }
  return {
    element,
    /** The columns may be others with each snapshot. What is open is left alone if they are not. */
    update(columns) {
      const options = columns.filter((column) => column.sort).map(({ key, label }) => h("option", { value: key }, label));
      const text = options.map((one) => one.outerHTML).join("");
      if (text !== shown) select.replaceChildren(...options);
      shown = text;
      show();
    },
  };
}

export function sorted(columns, rows, { key, down }) {
  const column = columns.find((one) => one.key === key);
  if (!column?.sort) return rows;
  const value = (row) => column.sort(row) ?? -1;
  const order = (one, other) => (typeof value(one) === "string" ? value(one).localeCompare(value(other)) : value(one) - value(other));
  return [...rows].sort((one, other) => (down ? order(other, one) : order(one, other)));
}

/** Draws a table of named rows again. While the focus is in a row, the rows keep their order. */
export function patchRows(list, rows, order, draw) {
  const body = list.querySelector("tbody");
  if (body?.contains(document.activeElement)) {
    const place = (row) => { const at = order.indexOf(row.name); return at < 0 ? order.length : at; };
    rows = [...rows].sort((one, other) => place(one) - place(other));
  }
  patch(list, draw(rows));
  return rows.map((row) => row.name);
}
