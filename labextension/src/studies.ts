// The list of studies in the sidebar.

import { button, el, userText } from "./dom";
import { formatMetric } from "./format";
import type { Translation } from "./words";
import type { Line, Listing } from "./server";

export interface Actions {
  open: (line: Line) => void;
  compare: (lines: Line[]) => void;
  copy: (line: Line) => void;
  report: (line: Line) => void;
  remove: (line: Line) => void;
}

const MOST_VALUES = 3;

export function keyOf(line: Line): string {
  return JSON.stringify([line.path, line.kernel, line.name]);
}

export class StudyList {
  readonly element = el("div.nbc-side", {});
  readonly #list = el("ul.nbc-side-list", {});
  readonly #note = el("p.nbc-side-note", { role: "status" });
  readonly #compare: HTMLButtonElement;
  readonly #search: HTMLInputElement;
  readonly #chosen = new Set<string>();
  readonly #items = new Map<string, { element: HTMLLIElement; text: string }>();
  #listing: Listing = { studies: [], problems: [], complete: true };

  constructor(
    private readonly trans: Translation,
    private readonly actions: Actions,
  ) {
    this.#search = el("input", {
      type: "search",
      class: "nbc-side-search",
      placeholder: trans.__("Filter"),
      "aria-label": trans.__("Filter studies by name or file"),
    });
    this.#search.addEventListener("input", () => this.#draw());
    this.#compare = button(trans.__("Compare"), { class: "nbc-side-button", disabled: true, title: trans.__("Compare the selected studies") }, () => {
      this.actions.compare(this.#listing.studies.filter((line) => this.#chosen.has(keyOf(line))));
    });
    this.element.append(el("div.nbc-side-tools", {}, this.#search, this.#compare), this.#list, this.#note);
    this.#draw();
  }

  show(listing: Listing): void {
    this.#listing = listing;
    const known = new Set(listing.studies.map(keyOf));
    [...this.#chosen].filter((key) => !known.has(key)).forEach((key) => this.#chosen.delete(key));
    this.#draw();
  }

  fail(sentence: string): void {
    this.#note.textContent = sentence;
  }

  // Redraws what has changed and leaves other items alone, so that the keyboard focus stays.
  #draw(): void {
    const wanted = this.#search.value.trim().toLowerCase();
    const shown = this.#listing.studies.filter((line) => `${line.name} ${line.path}`.toLowerCase().includes(wanted));
    const elements = shown.map((line) => this.#item(line));
    const keys = new Set(shown.map(keyOf));
    [...this.#items.keys()].filter((key) => !keys.has(key)).forEach((key) => this.#items.delete(key));
    if (elements.length !== this.#list.children.length || elements.some((element, i) => this.#list.children[i] !== element)) {
      this.#list.replaceChildren(...elements);
    }
    this.#compare.disabled = this.#chosen.size < 2;
    this.#note.replaceChildren(...this.#notes(shown.length));
  }

  #notes(count: number): Node[] {
    const lines = this.#listing.problems.map(({ path, problem }) => el("span", {}, userText(path), ": ", problem, " "));
    if (!this.#listing.complete) {
      lines.push(el("span", {}, this.trans.__("There are more files than the server looks at.")));
    }
    if (!count && !this.#listing.studies.length) {
      lines.push(el("span", {}, this.trans.__("No study yet. A search that is stored in a file below this folder appears here.")));
    }
    return lines;
  }

  #item(line: Line): HTMLLIElement {
    const key = keyOf(line);
    const text = JSON.stringify([line, this.#chosen.has(key)]);
    const known = this.#items.get(key);
    if (known?.text === text) {
      return known.element;
    }
    const element = known?.element ?? el("li.nbc-side-item", {});
    const focused = element.contains(document.activeElement) ? document.activeElement?.getAttribute("data-role") : null;
    element.replaceChildren(...this.#parts(line, key));
    element.classList.toggle("nbc-side-running", line.state === "running");
    if (focused) {
      element.querySelector<HTMLElement>(`[data-role="${focused}"]`)?.focus();
    }
    this.#items.set(key, { element, text });
    return element;
  }

  #parts(line: Line, key: string): Node[] {
    const { trans } = this;
    const box = el("input", { type: "checkbox", "data-role": "choose", "aria-label": trans.__("Select %1 for a comparison", line.label) });
    box.checked = this.#chosen.has(key);
    box.disabled = line.state === "unknown";
    box.addEventListener("change", () => {
      if (box.checked) {
        this.#chosen.add(key);
      } else {
        this.#chosen.delete(key);
      }
      this.#draw();
    });
    const name = button("", { class: "nbc-side-name", "data-role": "open", title: trans.__("Open as a tab") }, () => this.actions.open(line));
    name.append(userText(line.label));
    name.disabled = line.state === "unknown";
    const head = el("div.nbc-side-head", {}, box, name, el("span.nbc-side-state", {}, this.#stateText(line)));
    if (line.state === "unknown") {
      const where = trans.__("In a database that only the kernel can open: write %1 in the notebook.", `%bo_study ${line.name}`);
      return [head, el("p.nbc-side-path", {}, where)];
    }
    const share = line.wanted ? Math.min(1, line.done / line.wanted) : 1;
    const bar = el(
      "div.nbc-side-bar",
      { role: "progressbar", "aria-label": trans.__("Trials done"), "aria-valuenow": line.done, "aria-valuemin": 0, "aria-valuemax": line.wanted ?? line.done },
      el("div"),
    );
    (bar.firstElementChild as HTMLElement).style.width = `${share * 100}%`;
    const values = Object.entries(line.best?.values ?? {}).slice(0, MOST_VALUES);
    const best = values.map(([metric, value]) => el("span.nbc-side-value", {}, userText(metric), ` ${formatMetric(value)}`));
    const path = el("p.nbc-side-path", { title: line.path }, userText(line.path), line.ours ? "" : ` (${trans.__("Optuna, read only")})`);
    return [head, bar, el("p.nbc-side-best", {}, line.best ? `${trans.__("Best:")} ` : trans.__("Nothing feasible yet"), ...best), path, this.#tools(line)];
  }

  #stateText(line: Line): string {
    if (line.state === "unknown") {
      return "";
    }
    const count = line.wanted ? `${line.done}/${line.wanted}` : String(line.trials);
    return line.state === "running" ? this.trans.__("running, %1", count) : this.trans._n("%1 trial", "%1 trials", line.trials, count);
  }

  #tools(line: Line): HTMLElement {
    const { trans, actions } = this;
    const made = (role: string, label: string, act: (line: Line) => void): HTMLButtonElement =>
      button(label, { class: "nbc-side-button", "data-role": role, "aria-label": `${label}: ${line.label}` }, () => act(line));
    const tools = [made("copy", trans.__("Copy as code"), actions.copy), made("report", trans.__("Export report"), actions.report)];
    // The server deletes studies of files only.
    if (line.ours && line.kernel === null && !line.path.includes("://")) {
      tools.push(made("delete", trans.__("Delete"), actions.remove));
    }
    return el("div.nbc-side-actions", {}, ...tools);
  }
}
