// What a file of a compressed model holds, as a tab. The server reads the file; nothing in it is run.

import { el, userText } from "./dom";
import { hasFields, isListOf, isString } from "./guard";
import type { Translation } from "./words";
import type { ModelFile } from "./server";

const isModelFile = hasFields({
  title: isString,
  facts: isListOf(isListOf(isString, 2)),
  columns: isListOf(isString),
  rows: isListOf(isListOf(isString)),
  notes: isListOf(isString),
});

export function modelView(data: unknown, trans: Translation): HTMLElement {
  if (!isModelFile(data)) {
    return el("article.nbc", {}, el("p.nbc-refusal", { role: "alert" }, trans.__("This file holds no model that can be read.")));
  }
  const file = data as ModelFile;
  const facts = file.facts.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, userText(name)), el("td", {}, userText(value))));
  const head = el("tr", {}, ...file.columns.map((name, i) => el("th", { scope: "col", class: textClass(i) }, name)));
  const rows = file.rows.map((row) => el("tr", {}, ...row.map((value, i) => el("td", { class: textClass(i) }, userText(value)))));
  return el(
    "article",
    { class: "nbc", dir: "ltr", "aria-label": trans.__("Model file") },
    el("h2.nbc-title", {}, userText(file.title)),
    el("table.nbc-entries", {}, el("tbody", {}, ...facts)),
    ...file.notes.map((note) => el("p.nbc-caption", {}, userText(note))),
    el(
      "div",
      { class: "nbc-scroll nbc-tall", tabindex: 0, role: "region", "aria-label": trans.__("Table of tensors") },
      el("table", { class: "nbc-table nbc-plain" }, el("thead", {}, head), el("tbody", {}, ...rows)),
    ),
  );
}

// Number, shape and encoding are texts; zeros, bytes and bits are numbers.
function textClass(column: number): string {
  return column < 3 ? "nbc-text" : "";
}
