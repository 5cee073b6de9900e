// Which parameters matter, as bars.

import { empty } from "./chart";
import { el, user } from "./dom";
import type { Study } from "./data";
import type { Part } from "./part";

export class Importance implements Part {
  readonly element = el("div", { class: "nbc-place" });

  draw(study: Study): void {
    const shares = Object.entries(study.importance ?? {}).filter((one): one is [string, number] => one[1] !== null);
    if (!shares.length) {
      empty(this.element, "How much each parameter matters was not worked out for this study.");
      return;
    }
    shares.sort((a, b) => b[1] - a[1]);
    const rows = shares.map(([name, share]) => {
      const percent = Math.round(100 * Math.min(1, Math.max(0, share)));
      const bar = el("div", { class: "nbc-bar" });
      bar.style.width = `${percent}%`;
      return el("tr", {}, el("th", { scope: "row" }, user(name)), el("td", {}, `${percent} %`), el("td", { class: "nbc-track" }, bar));
    });
    this.element.replaceChildren(el("table", { class: "nbc-bars" }, el("tbody", {}, ...rows)));
  }
}
