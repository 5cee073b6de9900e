// The record of the experiment: how the study came about.

import { el, userText } from "./dom";
import { isObject, type Study } from "./data";
import { formatValue } from "./format";
import type { Part } from "./part";
import { trans } from "./words";

export class RecordView implements Part {
  readonly element = el("details.nbc-record", {});
  #drawn = "";

  draw(study: Study): void {
    const key = JSON.stringify([study.record, study.baseline]);
    this.element.hidden = key === "[{},null]";
    if (key === this.#drawn) {
      return;
    }
    this.#drawn = key;
    const { cell: source, ...known } = study.record;
    const entries = Object.entries({ ...known, ...(study.baseline ? { baseline: study.baseline } : {}) });
    const rows = entries.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, userText(name)), el("td", {}, userText(entryText(value)))));
    this.element.replaceChildren(el("summary", {}, trans.__("Record of the experiment")), el("table.nbc-entries", {}, el("tbody", {}, ...rows)));
    if (typeof source === "string") {
      this.element.append(el("pre", { dir: "auto" }, source));
    }
  }
}

export function entryText(value: unknown): string {
  if (Array.isArray(value)) {
    return value.map(entryText).join(", ");
  }
  if (isObject(value)) {
    return Object.entries(value)
      .filter(([, item]) => !Array.isArray(item) || item.length)
      .map(([key, item]) => `${key} ${entryText(item)}`)
      .join(", ");
  }
  if (typeof value === "string") {
    return value;
  }
  return typeof value === "number" || typeof value === "boolean" || value === null ? formatValue(value) : "";
}
