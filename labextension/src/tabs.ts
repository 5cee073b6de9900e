// Tabs: several parts in one place, of which one is shown.

import { button, el } from "./dom";
import type { Study } from "./data";
import type { Part } from "./part";

// Instead of the number of a tab: no part is shown.
export const FOLDED = -1;
let made = 0;

export class Tabs implements Part {
  readonly element: HTMLElement;
  readonly #list = el("div.nbc-tabs", { role: "tablist" });
  readonly #panel: HTMLElement;
  readonly #buttons: HTMLButtonElement[];
  #chosen = 0;
  #study: Study | null = null;

  constructor(
    label: string,
    private readonly parts: readonly { title: string; part: Part }[],
    private readonly changed: () => void = () => undefined,
    // Whether a click on the chosen tab folds the part away.
    private readonly canFold = false,
  ) {
    const id = `nbc-tab-${++made}`;
    this.#panel = el("div", { role: "tabpanel", id: `${id}-panel` });
    this.#buttons = parts.map(({ title }, i) => {
      return button(title, { role: "tab", id: `${id}-${i}`, class: "nbc-tab", "aria-controls": `${id}-panel` }, () =>
        this.choose(canFold && i === this.#chosen ? FOLDED : i),
      );
    });
    this.#list.append(...this.#buttons);
    this.#list.addEventListener("keydown", (event) => this.#move(event));
    this.element = el("section.nbc-part", { "aria-label": label }, this.#list, this.#panel);
    this.#mark();
  }

  draw(study: Study): void {
    this.#study = study;
    this.parts[this.#chosen]?.part.draw(study);
  }

  get index(): number {
    return this.#chosen;
  }

  choose(i: number): void {
    this.#chosen = i;
    this.#mark();
    if (this.#study) {
      this.draw(this.#study);
    }
    this.changed();
  }

  #mark(): void {
    this.#buttons.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === this.#chosen));
      tab.tabIndex = i === Math.max(0, this.#chosen) ? 0 : -1;
      if (this.canFold) {
        tab.setAttribute("aria-expanded", String(i === this.#chosen));
      }
    });
    this.#panel.setAttribute("aria-labelledby", this.#buttons[this.#chosen]?.id ?? "");
    const part = this.parts[this.#chosen]?.part.element;
    this.#panel.hidden = !part;
    this.#panel.replaceChildren(...(part ? [part] : []));
  }

  #move(event: KeyboardEvent): void {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      event.preventDefault();
      this.choose((Math.max(0, this.#chosen) + step + this.parts.length) % this.parts.length);
      this.#buttons[this.#chosen]?.focus();
    }
  }
}
