// All trials as a table that sorts; what a trial printed and why it failed is folded under its row.

import { button, el, user } from "./dom";
import { copied, startOption } from "./code";
import type { Scalar, Study, Trial } from "./data";
import { duration, spell, spellMetric } from "./format";
import type { Part } from "./part";
import type { Selection } from "./selection";
import { icon } from "./states";

const PAGE = 200;
const THANKS = 2000;

interface Column {
  key: string;
  title: string;
  isText: boolean;
  value: (trial: Trial) => Scalar | undefined;
  cell: (trial: Trial) => Node;
}

export class Trials implements Part {
  readonly element = el("section", { class: "nbc-part nbc-wide", "aria-label": "Trials" });
  private readonly head = el("thead");
  private readonly body = el("tbody");
  private readonly more = el("div", { class: "nbc-more" });
  private sortedBy = "number";
  private isDown = false;
  private shown = PAGE;
  private readonly unfolded = new Set<number>();
  private copied: { number: number; note: string } | null = null;
  private study: Study | null = null;

  constructor(private readonly selection: Selection) {
    const scroll = el("div", { class: "nbc-scroll", tabindex: 0, role: "region", "aria-label": "Table of trials" });
    scroll.append(el("table", { class: "nbc-table" }, this.head, this.body), this.more);
    this.element.append(el("h3", {}, "Trials"), scroll);
  }

  draw(study: Study): void {
    this.study = study;
    const columns = columnsOf(study);
    const focus = this.focused();
    this.drawHead(columns);
    const front = new Set(study.front);
    const sorted = this.sorted(study.trials, columns);
    const page = sorted.slice(0, this.shown);
    const chosen = sorted.find((one) => one.number === this.selection.number);
    if (chosen && !page.includes(chosen)) {
      page.push(chosen);
    }
    this.body.replaceChildren(...page.flatMap((one) => this.rows(one, columns, front.has(one.number))));
    this.drawMore(sorted.length);
    if (focus) {
      this.element.querySelector<HTMLElement>(`[data-focus="${focus}"]`)?.focus({ preventScroll: true });
    }
  }

  // Brings the chosen row into sight within the table, without moving the page.
  reveal(): void {
    const row = this.body.querySelector<HTMLElement>("tr[aria-current]");
    const scroll = this.body.closest<HTMLElement>(".nbc-scroll");
    if (row && scroll && scroll.clientHeight > 0) {
      const [top, bottom] = [row.offsetTop - this.head.offsetHeight, row.offsetTop + row.offsetHeight];
      if (top < scroll.scrollTop || bottom > scroll.scrollTop + scroll.clientHeight) {
        scroll.scrollTop = Math.max(0, top - scroll.clientHeight / 3);
      }
    }
  }

  private focused(): string | null {
    const active = document.activeElement;
    return active && this.element.contains(active) ? active.getAttribute("data-focus") : null;
  }

  private redraw(): void {
    if (this.study) {
      this.draw(this.study);
    }
  }

  private drawHead(columns: readonly Column[]): void {
    const cells = columns.map((column, i) => {
      const isSorted = column.key === this.sortedBy;
      const label = el("span", { "aria-hidden": "true", class: "nbc-arrow" }, isSorted ? (this.isDown ? "▼" : "▲") : "");
      const press = button("", { class: "nbc-sort", "data-focus": `head${i}` }, () => {
        this.isDown = isSorted ? !this.isDown : false;
        this.sortedBy = column.key;
        this.redraw();
      });
      press.append(user(column.title), label);
      const sort = isSorted ? (this.isDown ? "descending" : "ascending") : "none";
      return el("th", { scope: "col", "aria-sort": sort, class: column.isText ? "nbc-text" : null }, press);
    });
    this.head.replaceChildren(el("tr", {}, ...cells));
  }

  private sorted(trials: readonly Trial[], columns: readonly Column[]): Trial[] {
    const column = columns.find((one) => one.key === this.sortedBy) ?? columns[0];
    if (!column) {
      return [...trials];
    }
    const keyed = trials.map((trial) => ({ trial, value: column.value(trial) }));
    const sign = this.isDown ? -1 : 1;
    keyed.sort((a, b) => compare(a.value, b.value, sign) || a.trial.number - b.trial.number);
    return keyed.map((one) => one.trial);
  }

  private rows(trial: Trial, columns: readonly Column[], isFront: boolean): HTMLTableRowElement[] {
    const isChosen = trial.number === this.selection.number;
    const row = el("tr", { "aria-current": isChosen ? "true" : null, class: isFront ? "nbc-is-front" : null });
    row.addEventListener("click", () => this.selection.choose(trial.number));
    const code = startOption(trial);
    const hasMore = Boolean(trial.failure ?? trial.printed ?? trial.reason ?? code);
    columns.forEach((column, i) => {
      const cell = el("td", { class: column.isText ? "nbc-text" : null }, column.cell(trial));
      if (i === 0) {
        cell.replaceChildren(...this.handles(trial, hasMore, isChosen));
      }
      row.append(cell);
    });
    if (!this.unfolded.has(trial.number)) {
      return [row];
    }
    const parts = [...foldedOf(trial), ...(code ? [this.codeOf(trial, code)] : [])];
    return [row, el("tr", { class: "nbc-fold" }, el("td", { colspan: columns.length }, ...parts))];
  }

  private codeOf(trial: Trial, code: string): HTMLElement {
    const { number } = trial;
    const press = async (): Promise<void> => {
      this.copied = { number, note: (await copied(code)) ? "Copied." : "No clipboard here: select the text." };
      this.redraw();
      setTimeout(() => ((this.copied = null), this.redraw()), THANKS);
    };
    const title = "Copy the option of %%bo_search that runs this point first";
    const copy = button("Copy as code", { class: "nbc-button", title, "data-focus": `copy${number}` }, () => void press());
    const note = el("span", { role: "status" }, this.copied?.number === number ? this.copied.note : "");
    return el("div", { class: "nbc-code" }, copy, el("code", { dir: "ltr" }, code), note);
  }

  private handles(trial: Trial, hasMore: boolean, isChosen: boolean): Node[] {
    const number = String(trial.number);
    const isOpen = this.unfolded.has(trial.number);
    const choose = button(number, { class: "nbc-number", "aria-pressed": String(isChosen), "data-focus": `row${number}` }, () => {
      this.selection.choose(trial.number);
    });
    choose.setAttribute("aria-label", `Trial ${number}`);
    if (!hasMore) {
      return [el("span", { class: "nbc-handles" }, choose)];
    }
    const label = { "aria-label": `Details of trial ${number}`, "aria-expanded": String(isOpen), "data-focus": `fold${number}` };
    const fold = button(isOpen ? "▾" : "▸", { class: "nbc-toggle", ...label }, (event) => {
      event.stopPropagation();
      this.unfolded[isOpen ? "delete" : "add"](trial.number);
      this.redraw();
    });
    return [el("span", { class: "nbc-handles" }, fold, choose)];
  }

  private drawMore(total: number): void {
    const left = total - this.shown;
    this.more.replaceChildren();
    if (left > 0) {
      const label = `Show ${Math.min(PAGE, left)} more of ${total}`;
      this.more.append(button(label, { class: "nbc-button", "data-focus": "more" }, () => ((this.shown += PAGE), this.redraw())));
    }
  }
}

function columnsOf(study: Study): Column[] {
  const plain = (text: string): Node => document.createTextNode(text);
  const number: Column = { key: "number", title: "trial", isText: false, value: (one) => one.number, cell: (one) => plain(String(one.number)) };
  const state: Column = {
    key: "state",
    title: "state",
    isText: true,
    value: (one) => one.state,
    cell: (one) => el("span", { class: "nbc-state" }, icon(one.state), ` ${one.state}`),
  };
  const metrics = study.metrics.map((name): Column => {
    return { key: `m:${name}`, title: name, isText: false, value: (one) => one.metrics[name] ?? undefined, cell: (one) => plain(spellMetric(one.metrics[name])) };
  });
  const params = study.parameters.map(({ name, kind }): Column => {
    const isText = kind === "choice";
    return { key: `p:${name}`, title: name, isText, value: (one) => one.params[name], cell: (one) => user(spell(one.params[name])) };
  });
  const seconds: Column = {
    key: "seconds",
    title: "time",
    isText: false,
    value: (one) => one.seconds ?? undefined,
    cell: (one) => plain(one.seconds === null ? "" : duration(one.seconds)),
  };
  return [number, state, ...metrics, ...params, seconds];
}

// Orders numbers before words; what is missing comes last, whichever way the column runs.
export function compare(a: Scalar | undefined, b: Scalar | undefined, sign: number): number {
  if (a === undefined || b === undefined) {
    return Number(a === undefined) - Number(b === undefined);
  }
  if (typeof a === "number" && typeof b === "number") {
    return sign * (a - b);
  }
  if (typeof a === "number" || typeof b === "number") {
    return sign * (typeof a === "number" ? -1 : 1);
  }
  const [x, y] = [String(a), String(b)];
  return sign * (x < y ? -1 : x > y ? 1 : 0);
}

function foldedOf(trial: Trial): Node[] {
  const parts: Node[] = [];
  if (trial.reason) {
    parts.push(el("p", { class: "nbc-reason" }, "Why this point: ", user(trial.reason)));
  }
  if (trial.failure) {
    const { kind, message, traceback } = trial.failure;
    parts.push(el("p", { class: "nbc-failure" }, user(message ? `${kind}: ${message}` : kind)));
    if (traceback) {
      parts.push(el("pre", { dir: "auto" }, traceback));
    }
  }
  if (trial.printed) {
    parts.push(el("p", { class: "nbc-reason" }, "Printed:"), el("pre", { dir: "auto" }, trial.printed));
  }
  return parts;
}
