// The table of trials, which sorts, searches and filters; failures and printed texts are folded below their rows.

import { ColumnChoice, columnsOf, csvText, type Column } from "./columns";
import { button, choice, download, el, userText } from "./dom";
import { copyText, startOption } from "./code";
import { STATES, type Scalar, type State, type Study, type Trial } from "./data";
import { metricsText, paramsText } from "./format";
import type { Part } from "./part";
import type { Selection } from "./selection";
import { stateName } from "./states";
import { around, HERE, trans } from "./words";

const PAGE = 200;
const SHOW_COPIED_FOR = 2000;

// What the table shows beside the trials of one state.
const ALL = "all";
const FRONT = "front";
type Shown = State | typeof ALL | typeof FRONT;

export class Trials implements Part {
  readonly element = el("section", { class: "nbc-part nbc-wide", "aria-label": trans.__("Trials") });
  readonly #head = el("thead");
  readonly #body = el("tbody");
  readonly #more = el("div.nbc-more", {});
  readonly #search = el("input.nbc-select", { type: "search", placeholder: trans.__("Search"), "aria-label": trans.__("Search the trials") });
  readonly #states = el("span");
  readonly #within = el("input", { type: "checkbox" });
  readonly #withinLabel = el("label.nbc-choice", { hidden: true }, this.#within, " ", trans.__("only within the ranges"));
  readonly #count = el("span.nbc-answer", { role: "status" });
  readonly #columns = new ColumnChoice(() => this.#redraw());
  readonly #texts = new WeakMap<Trial, string>();
  #state: Shown = ALL;
  #drawnStates = "";
  #sortedBy = "number";
  #isDown = false;
  #shown = PAGE;
  readonly #unfolded = new Set<number>();
  #copyText: { number: number; note: string } | null = null;
  #study: Study | null = null;

  constructor(private readonly selection: Selection) {
    const scroll = el("div.nbc-scroll", { tabindex: 0, role: "region", "aria-label": trans.__("Table of trials") });
    scroll.append(el("table.nbc-table", {}, this.#head, this.#body), this.#more);
    const first = (): void => {
      this.#shown = PAGE;
      this.#redraw();
    };
    this.#search.addEventListener("input", first);
    this.#within.addEventListener("change", first);
    const title = trans.__("Save the rows and columns that are shown, with all digits");
    const save = button(trans.__("Download CSV"), { class: "nbc-button", title }, () => this.#save());
    const tools = el("div", { class: "nbc-tools nbc-filters", role: "group", "aria-label": trans.__("Rows and columns") });
    tools.append(this.#search, this.#states, this.#withinLabel, this.#columns.element, save, this.#count);
    this.element.append(el("h3", {}, trans.__("Trials")), tools, scroll);
  }

  draw(study: Study): void {
    this.#study = study;
    const all = columnsOf(study);
    const columns = this.#columns.arrange(all);
    const focus = this.#focused();
    this.#columns.draw(all);
    this.#drawStates(study);
    this.#withinLabel.hidden = !this.selection.limits.size;
    this.#drawHead(columns);
    const front = new Set(study.front);
    const sorted = this.#sorted(this.#filtered(study), all);
    this.#count.textContent = sorted.length < study.trials.length ? trans.__("%1 of %2 trials", sorted.length, study.trials.length) : "";
    const page = sorted.slice(0, this.#shown);
    const chosen = sorted.find((trial) => trial.number === this.selection.number);
    if (chosen && !page.includes(chosen)) {
      page.push(chosen);
    }
    this.#body.replaceChildren(...page.flatMap((trial) => this.#rows(trial, columns, front.has(trial.number))));
    this.#drawMore(sorted.length);
    this.#pin(columns);
    if (focus) {
      this.element.querySelector<HTMLElement>(`[data-focus="${focus}"]`)?.focus({ preventScroll: true });
    }
  }

  #filtered(study: Study): readonly Trial[] {
    const words = this.#search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const front = new Set(this.#state === FRONT ? study.front : []);
    const isWithin = this.#within.checked && this.selection.limits.size > 0;
    return study.trials.filter(
      (trial) =>
        (this.#state === ALL || (this.#state === FRONT ? front.has(trial.number) : trial.state === this.#state)) &&
        (!isWithin || this.selection.has(trial)) &&
        words.every((word) => this.#text(trial).includes(word)),
    );
  }

  #text(trial: Trial): string {
    let text = this.#texts.get(trial);
    if (text === undefined) {
      const { number, state, failure, reason, printed, metrics } = trial;
      const parts = [number, stateName(state), paramsText(trial), metricsText(trial, Object.keys(metrics)), failure?.kind, failure?.message, reason, printed];
      text = parts
        .filter((part) => part !== undefined)
        .join("\n")
        .toLowerCase();
      this.#texts.set(trial, text);
    }
    return text;
  }

  #drawStates(study: Study): void {
    const known = new Set<string>(study.trials.map((trial) => trial.state));
    const options: Shown[] = [ALL, FRONT, ...STATES.filter((state) => known.has(state) || state === this.#state)];
    const key = JSON.stringify(options);
    if (key !== this.#drawnStates) {
      this.#drawnStates = key;
      const hadFocus = this.#states.contains(document.activeElement);
      const name = (shown: Shown) => (shown === ALL ? trans.__("all states") : shown === FRONT ? trans.__("the front") : stateName(shown));
      const change = (_: string, i: number): void => {
        this.#state = options[i] ?? ALL;
        this.#shown = PAGE;
        this.#redraw();
      };
      this.#states.replaceChildren(choice(trans.__("Show"), options.map(name), name(this.#state), change));
      if (hadFocus) {
        this.#states.querySelector("select")?.focus();
      }
    }
  }

  #save(): void {
    const study = this.#study;
    if (study) {
      const all = columnsOf(study);
      const name = study.name.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 60);
      download(`${name || "study"}.csv`, csvText(this.#columns.arrange(all), this.#sorted(this.#filtered(study), all)), "text/csv;charset=utf-8");
    }
  }

  // Gives each pinned cell its place beside the pinned cells before it.
  #pin(columns: readonly Column[]): void {
    const heads = [...(this.#head.firstElementChild?.children ?? [])] as HTMLElement[];
    let left = 0;
    columns
      .filter(({ key }) => this.#columns.isPinned(key))
      .forEach((_, i) => {
        const cells = [
          heads[i],
          ...[...this.#body.children].filter((row) => !row.classList.contains("nbc-fold")).map((row) => row.children[i] as HTMLElement | undefined),
        ];
        cells.forEach((cell) => {
          cell?.classList.add("nbc-pinned");
          cell?.style.setProperty("left", `${left}px`);
        });
        left += heads[i]?.offsetWidth ?? 0;
      });
  }

  // Scrolls the table, but not the page, to the selected row.
  reveal(): void {
    const row = this.#body.querySelector<HTMLElement>("tr[aria-current]");
    const scroll = this.#body.closest<HTMLElement>(".nbc-scroll");
    if (row && scroll && scroll.clientHeight > 0) {
      const [top, bottom] = [row.offsetTop - this.#head.offsetHeight, row.offsetTop + row.offsetHeight];
      if (top < scroll.scrollTop || bottom > scroll.scrollTop + scroll.clientHeight) {
        scroll.scrollTop = Math.max(0, top - scroll.clientHeight / 3);
      }
    }
  }

  #focused(): string | null {
    const active = document.activeElement;
    return active && this.element.contains(active) ? active.getAttribute("data-focus") : null;
  }

  #redraw(): void {
    if (this.#study) {
      this.draw(this.#study);
    }
  }

  #drawHead(columns: readonly Column[]): void {
    const cells = columns.map((column, i) => {
      const isSorted = column.key === this.#sortedBy;
      const label = el("span", { "aria-hidden": "true", class: "nbc-arrow" }, isSorted ? (this.#isDown ? "▼" : "▲") : "");
      const press = button("", { class: "nbc-sort", "data-focus": `head${i}` }, () => {
        this.#isDown = isSorted ? !this.#isDown : false;
        this.#sortedBy = column.key;
        this.#redraw();
      });
      press.append(userText(column.title), label);
      const sort = isSorted ? (this.#isDown ? "descending" : "ascending") : "none";
      return el("th", { scope: "col", "aria-sort": sort, class: column.isText ? "nbc-text" : null }, press);
    });
    this.#head.replaceChildren(el("tr", {}, ...cells));
  }

  #sorted(trials: readonly Trial[], columns: readonly Column[]): Trial[] {
    const column = columns.find((known) => known.key === this.#sortedBy) ?? columns[0];
    if (!column) {
      return [...trials];
    }
    const keyed = trials.map((trial) => ({ trial, value: column.value(trial) }));
    const sign = this.#isDown ? -1 : 1;
    keyed.sort((a, b) => compare(a.value, b.value, sign) || a.trial.number - b.trial.number);
    return keyed.map((row) => row.trial);
  }

  #rows(trial: Trial, columns: readonly Column[], isFront: boolean): HTMLTableRowElement[] {
    const isChosen = trial.number === this.selection.number;
    const kinds = [isFront ? "nbc-is-front" : "", this.selection.has(trial) ? "" : "nbc-dim"].filter(Boolean).join(" ");
    const row = el("tr", { "aria-current": isChosen ? "true" : null, class: kinds || null });
    row.addEventListener("click", () => this.selection.choose(trial.number));
    const code = startOption(trial);
    const hasMore = Boolean(trial.failure ?? trial.printed ?? trial.reason ?? code);
    columns.forEach((column, i) => {
      const cell = el("td", { class: column.isText ? "nbc-text" : null }, column.cell(trial));
      if (i === 0) {
        cell.replaceChildren(...this.#handles(trial, hasMore, isChosen));
      }
      row.append(cell);
    });
    if (!this.#unfolded.has(trial.number)) {
      return [row];
    }
    const parts = [...detailsOf(trial), ...(code ? [this.#codeOf(trial, code)] : [])];
    return [row, el("tr.nbc-fold", {}, el("td", { colspan: columns.length }, ...parts))];
  }

  #codeOf(trial: Trial, code: string): HTMLElement {
    const { number } = trial;
    const press = async (): Promise<void> => {
      this.#copyText = { number, note: (await copyText(code)) ? trans.__("Copied.") : trans.__("The clipboard is not available: select the text.") };
      this.#redraw();
      setTimeout(() => ((this.#copyText = null), this.#redraw()), SHOW_COPIED_FOR);
    };
    const title = trans.__("Copy the option of %1 that runs this point first", "%%bo_search");
    const copy = button(trans.__("Copy as code"), { class: "nbc-button", title, "data-focus": `copy${number}` }, () => void press());
    const note = el("span", { role: "status" }, this.#copyText?.number === number ? this.#copyText.note : "");
    return el("div.nbc-code", {}, copy, el("code", { dir: "ltr" }, code), note);
  }

  #handles(trial: Trial, hasMore: boolean, isChosen: boolean): Node[] {
    const number = String(trial.number);
    const isOpen = this.#unfolded.has(trial.number);
    const choose = button(number, { class: "nbc-number", "aria-pressed": String(isChosen), "data-focus": `row${number}` }, () => {
      this.selection.choose(trial.number);
    });
    choose.setAttribute("aria-label", trans.__("Trial %1", number));
    if (!hasMore) {
      return [el("span.nbc-handles", {}, choose)];
    }
    const label = { "aria-label": trans.__("Details of trial %1", number), "aria-expanded": String(isOpen), "data-focus": `fold${number}` };
    const fold = button(isOpen ? "▾" : "▸", { class: "nbc-toggle", ...label }, (event) => {
      event.stopPropagation();
      this.#unfolded[isOpen ? "delete" : "add"](trial.number);
      this.#redraw();
    });
    return [el("span.nbc-handles", {}, fold, choose)];
  }

  #drawMore(total: number): void {
    const left = total - this.#shown;
    this.#more.replaceChildren();
    if (left > 0) {
      const label = trans.__("Show %1 more of %2", Math.min(PAGE, left), total);
      this.#more.append(button(label, { class: "nbc-button", "data-focus": "more" }, () => ((this.#shown += PAGE), this.#redraw())));
    }
  }
}

// Sorts numbers before texts; missing values come last in both directions.
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

function detailsOf(trial: Trial): Node[] {
  const parts: Node[] = [];
  if (trial.reason) {
    parts.push(el("p.nbc-reason", {}, ...around(trans.__("Why this point: %1", HERE), userText(trial.reason))));
  }
  if (trial.failure) {
    const { kind, message, traceback } = trial.failure;
    parts.push(el("p.nbc-failure", {}, userText(message ? `${kind}: ${message}` : kind)));
    if (traceback) {
      parts.push(el("pre", { dir: "auto" }, traceback));
    }
  }
  if (trial.printed) {
    parts.push(el("p.nbc-reason", {}, trans.__("Printed:")), el("pre", { dir: "auto" }, trial.printed));
  }
  return parts;
}
