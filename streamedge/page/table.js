// A table whose rows change in place, so that focus, selection and scroll positions stay.

import { h, setText } from "./dom.js";

// `columns`: {label, text(row) or node(row), kind: "number" | "long" | "actions", sort: name}.
// `key(row)`: what makes it the same row later. `onsort(name, isDescending)` makes labels buttons.
export class Table {
  constructor({ caption, columns, key, empty, onsort = null, sort = null, isDescending = true }) {
    this.columns = columns;
    this.key = key;
    this.onsort = onsort;
    this.sort = sort;
    this.isDescending = isDescending;
    this.rows = new Map();
    this.body = h("tbody");
    this.emptyText = h("p", { class: "empty", hidden: true }, empty);
    this.heads = columns.map((column) => this.#head(column));
    this.table = h(
      "table",
      {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, ...this.heads)),
      this.body,
    );
    this.scroller = h("div", { class: "table", tabindex: "0", role: "region", "aria-label": caption }, this.table);
    this.element = h("div", {}, this.scroller, this.emptyText);
    this.#showSort();
  }

  update(rows) {
    const keys = new Set();
    let place = this.body.firstElementChild;
    for (const row of rows) {
      const key = String(this.key(row));
      if (keys.has(key)) continue;
      keys.add(key);
      let entry = this.rows.get(key);
      if (!entry) {
        entry = { element: h("tr"), cells: this.columns.map((column) => this.#cell(column)), row };
        entry.element.append(...entry.cells);
        this.columns.forEach((column, index) => {
          if (column.node && !column.isLive) entry.cells[index].append(column.node(row));
        });
        this.rows.set(key, entry);
      }
      entry.row = row;
      this.columns.forEach((column, index) => this.#fill(column, entry.cells[index], row));
      if (entry.element === place) place = place.nextElementSibling;
      else this.body.insertBefore(entry.element, place);
    }
    for (const [key, entry] of this.rows) {
      if (keys.has(key)) continue;
      entry.element.remove();
      this.rows.delete(key);
    }
    this.emptyText.hidden = keys.size > 0;
    this.scroller.hidden = keys.size === 0;
  }

  #cell(column) {
    const name = column.isHead ? "th" : "td";
    return h(name, {
      class: column.kind || null,
      scope: column.isHead ? "row" : null,
      "data-label": column.label || null,
    });
  }

  #fill(column, cell, row) {
    if (column.text) {
      const text = column.text(row);
      setText(cell, text);
      if (column.kind === "long") cell.title = text;
    } else if (column.isLive) {
      const node = column.node(row);
      if (cell.firstChild?.isEqualNode?.(node)) return;
      cell.replaceChildren(node);
    }
  }

  #head(column) {
    const label = column.label || h("span", { class: "hidden" }, "Actions");
    if (!this.onsort || !column.sort) return h("th", { scope: "col", class: column.kind || null }, label);
    const button = h("button", { type: "button", class: "sort", onclick: () => this.#sortBy(column) }, label);
    return h("th", { scope: "col", class: column.kind || null }, button);
  }

  #sortBy(column) {
    if (this.sort === column.sort) this.isDescending = !this.isDescending;
    else [this.sort, this.isDescending] = [column.sort, column.kind === "number"];
    this.#showSort();
    this.onsort(this.sort, this.isDescending);
  }

  #showSort() {
    this.columns.forEach((column, index) => {
      if (!this.onsort || !column.sort) return;
      const isSorted = column.sort === this.sort;
      const order = this.isDescending ? "descending" : "ascending";
      this.heads[index].setAttribute("aria-sort", isSorted ? order : "none");
    });
  }
}
