// What was measured once on data that no trial saw: the original and the front.

import { el, userText } from "./dom";
import type { Study } from "./data";
import type { Part } from "./part";
import { trans } from "./words";

export class UnseenData implements Part {
  readonly element = el("div.nbc-unseen", {});
  #drawn = "";

  draw(study: Study): void {
    const key = JSON.stringify(study.test ?? null);
    if (key === this.#drawn) {
      return;
    }
    this.#drawn = key;
    this.element.hidden = !study.test;
    if (!study.test) {
      this.element.replaceChildren();
      return;
    }
    const { columns, rows } = study.test;
    const head = el("tr", {}, ...columns.map((column) => el(column ? "th" : "td", column ? { scope: "col" } : {}, userText(column))));
    const body = rows.map((row) => el("tr", {}, ...row.map((text, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }, userText(text)))));
    this.element.replaceChildren(
      el("div.nbc-failure", {}, trans.__("On data that no trial saw")),
      el("table.nbc-entries", {}, el("thead", {}, head), el("tbody", {}, ...body)),
    );
  }
}
