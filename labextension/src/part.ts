// A part of the view: an element that can draw a study.

import { choice, el } from "./dom";
import type { Study } from "./data";
import { Plot } from "./plot";
import type { Selection } from "./selection";

export interface Part {
  readonly element: HTMLElement;
  draw(study: Study): void;
}

export interface Select {
  label: string;
  options: readonly string[];
  chosen: string;
  change: (value: string) => void;
}

// A part with one chart that zooms, below selects that say what it shows.
export abstract class ChartPart implements Part {
  protected readonly plot: Plot;
  readonly #tools = el("div.nbc-tools", {});
  #shown = "";
  #study: Study | null = null;

  constructor(
    protected readonly selection: Selection,
    readonly element: HTMLElement = el("div"),
  ) {
    this.plot = new Plot(selection, () => this.#redraw());
    this.element.append(this.#tools, this.plot.element);
  }

  draw(study: Study): void {
    this.#study = study;
    this.drawChart(study);
  }

  protected abstract drawChart(study: Study): void;

  // Selects that offer the same as before stay, so that an open one does not close while the search runs.
  protected drawSelects(...selects: readonly Select[]): void {
    const key = JSON.stringify(selects);
    if (key === this.#shown) {
      return;
    }
    this.#shown = key;
    const changed = (select: Select, value: string): void => {
      select.change(value);
      this.plot.unzoom();
      this.#redraw();
    };
    this.#tools.replaceChildren(...selects.map((select) => choice(select.label, select.options, select.chosen, (value) => changed(select, value))));
  }

  #redraw(): void {
    if (this.#study) {
      this.draw(this.#study);
    }
  }
}
