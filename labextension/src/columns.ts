// The columns of the table of trials, which of them are shown and pinned, and the rows as CSV.

import { button, el, userText } from "./dom";
import type { Scalar, Study, Trial } from "./data";
import { formatDuration, formatMetric, formatValue } from "./format";
import { metricKey, paramKey } from "./selection";
import { icon, stateName } from "./states";
import { trans } from "./words";

export interface Column {
  key: string;
  title: string;
  isText: boolean;
  value: (trial: Trial) => Scalar | undefined;
  cell: (trial: Trial) => Node;
}

// The column that is always shown, at the left.
export const NUMBER = "number";

export function columnsOf(study: Study): Column[] {
  const plain = (text: string): Node => document.createTextNode(text);
  const number: Column = { key: NUMBER, title: trans.__("trial"), isText: false, value: (trial) => trial.number, cell: (trial) => plain(String(trial.number)) };
  const state: Column = {
    key: "state",
    title: trans.__("state"),
    isText: true,
    value: (trial) => trial.state,
    cell: (trial) => el("span.nbc-state", {}, icon(trial.state), ` ${stateName(trial.state)}`),
  };
  const metrics = study.metrics.map((name): Column => {
    return {
      key: metricKey(name),
      title: name,
      isText: false,
      value: (trial) => trial.metrics[name] ?? undefined,
      cell: (trial) => plain(formatMetric(trial.metrics[name])),
    };
  });
  const params = study.parameters.map(({ name, kind }): Column => {
    const isText = kind === "choice";
    return { key: paramKey(name), title: name, isText, value: (trial) => trial.params[name], cell: (trial) => userText(formatValue(trial.params[name])) };
  });
  const seconds: Column = {
    key: "seconds",
    title: trans.__("time"),
    isText: false,
    value: (trial) => trial.seconds ?? undefined,
    cell: (trial) => plain(trial.seconds === null ? "" : formatDuration(trial.seconds)),
  };
  return [number, state, ...metrics, ...params, seconds];
}

// Which columns are hidden, and which stay at the left when the table is scrolled.
export class ColumnChoice {
  readonly element = el("details.nbc-columns", {});
  readonly #list = el("ul.nbc-column-list", {});
  readonly #hidden = new Set<string>();
  readonly #pinned = new Set<string>();
  #drawn = "";

  constructor(private readonly changed: () => void) {
    this.element.append(el("summary.nbc-button", {}, trans.__("Columns")), this.#list);
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.element.open) {
        this.element.open = false;
        this.element.querySelector("summary")?.focus();
      }
    });
  }

  // Returns the columns that are shown, the pinned ones first.
  arrange(columns: readonly Column[]): Column[] {
    const shown = columns.filter(({ key }) => !this.#hidden.has(key));
    return [...shown.filter(({ key }) => this.isPinned(key)), ...shown.filter(({ key }) => !this.isPinned(key))];
  }

  isPinned(key: string): boolean {
    return key === NUMBER || this.#pinned.has(key);
  }

  draw(columns: readonly Column[]): void {
    const key = JSON.stringify([columns.map((column) => column.key), [...this.#hidden], [...this.#pinned]]);
    if (key === this.#drawn) {
      return;
    }
    this.#drawn = key;
    const focus = this.#list.contains(document.activeElement) ? document.activeElement?.getAttribute("data-focus") : null;
    this.#list.replaceChildren(...columns.slice(1).map((column, i) => this.#row(column, i)));
    if (focus) {
      this.#list.querySelector<HTMLElement>(`[data-focus="${focus}"]`)?.focus();
    }
  }

  #row({ key, title }: Column, i: number): HTMLElement {
    const box = el("input", { type: "checkbox", checked: !this.#hidden.has(key), "data-focus": `show${i}` });
    box.addEventListener("change", () => this.#toggle(this.#hidden, key));
    const isPinned = this.#pinned.has(key);
    const label = { "aria-label": trans.__("Pin %1 at the left", title), "aria-pressed": String(isPinned), "data-focus": `pin${i}` };
    const pin = button(trans.__("Pin"), { class: "nbc-button", ...label }, () => this.#toggle(this.#pinned, key));
    return el("li", {}, el("label", {}, box, " ", userText(title)), pin);
  }

  #toggle(keys: Set<string>, key: string): void {
    keys[keys.has(key) ? "delete" : "add"](key);
    this.changed();
  }
}

// Returns the trials as CSV (RFC 4180) with all digits; a missing value is an empty field.
export function csvText(columns: readonly Column[], trials: readonly Trial[]): string {
  const field = (value: Scalar | undefined): string => {
    const text = typeof value === "number" ? String(value) : formatValue(value);
    return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const rows = [columns.map(({ title }) => field(title)), ...trials.map((trial) => columns.map(({ value }) => field(value(trial))))];
  return rows.map((row) => `${row.join(",")}\r\n`).join("");
}
