// The Importance tab: the importance of parameters as bars, and whether the surrogate can be trusted.

import { axes, canvas, showMessage, leftOf, MARGIN } from "./chart";
import { choice, el, svg, userText } from "./dom";
import type { Calibration, Study } from "./data";
import { shorten } from "./format";
import { WIDTH_95 } from "./normal";
import type { Part } from "./part";
import { linearScale } from "./scales";
import { around, HERE, trans } from "./words";

const HEIGHT = 130;
// Residuals of more standard deviations are drawn in the last column; a column is half a standard deviation wide.
const FAR = 5;
const COLUMN = 0.5;

export class Importance implements Part {
  readonly #tools = el("div.nbc-tools", {});
  readonly #place = el("div.nbc-place", {});
  readonly element = el("div", {}, this.#tools, this.#place);
  #study: Study | null = null;
  #offered = "";
  #metric: string | null = null;

  draw(study: Study): void {
    this.#study = study;
    const first = study.goal.objectives[0]?.metric ?? "";
    const insights = study.insights?.length ? study.insights : [{ metric: first, importance: study.importance ?? {}, calibration: study.calibration ?? null }];
    const insight = insights.find(({ metric }) => metric === this.#metric) ?? insights[0];
    const shares = Object.entries(insight?.importance ?? {}).filter((entry): entry is [string, number] => entry[1] !== null);
    if (!insight || !shares.length) {
      const isRunning = study.state === "running";
      const waiting = () => trans.__("The importance of the parameters is shown here once the surrogate has enough trials.");
      showMessage(this.#place, isRunning ? waiting() : trans.__("The importance of the parameters was not computed for this study."));
      return;
    }
    shares.sort((a, b) => b[1] - a[1]);
    const rows = shares.map(([name, share]) => {
      const percent = Math.round(100 * Math.min(1, Math.max(0, share)));
      const bar = el("div.nbc-bar", {});
      bar.style.width = `${percent}%`;
      return el("tr", {}, el("th", { scope: "row" }, userText(name)), el("td", {}, `${percent} %`), el("td.nbc-track", {}, bar));
    });
    const caption = el("caption", {}, ...around(trans.__("Importance for %1: the share of each parameter in its variance", HERE), userText(insight.metric)));
    this.#drawSelect(
      insights.map(({ metric }) => metric),
      insight.metric,
    );
    this.#place.replaceChildren(el("table.nbc-bars", {}, caption, el("tbody", {}, ...rows)));
    if (insight.calibration) {
      this.#drawCalibration(insight.calibration);
    }
  }

  // A select that offers the same as before stays, so that an open one does not close while the search runs.
  #drawSelect(metrics: readonly string[], chosen: string): void {
    const key = JSON.stringify(metrics);
    if (key === this.#offered) {
      return;
    }
    this.#offered = key;
    const change = (metric: string): void => {
      this.#metric = metric;
      if (this.#study) {
        this.draw(this.#study);
      }
    };
    this.#tools.replaceChildren(...(metrics.length > 1 ? [choice(trans.__("Objective"), metrics, chosen, change)] : []));
  }

  // A histogram of the residuals; 19 of 20 should lie in the band.
  #drawCalibration(calibration: Calibration): void {
    const known = calibration.residuals.filter((residual): residual is number => residual !== null);
    const columns = new Array<number>((2 * FAR) / COLUMN).fill(0);
    for (const residual of known) {
      const i = Math.min(columns.length - 1, Math.max(0, Math.floor((residual + FAR) / COLUMN)));
      columns[i] = (columns[i] ?? 0) + 1;
    }
    const { root, width } = canvas(this.#place, HEIGHT, shorten(trans.__("Calibration: %1", calibration.sentence), 300));
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const y = linearScale([0, Math.max(1, ...columns)], [bottom, top], { count: 2, padded: false, whole: true });
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const x = linearScale([-FAR, FAR], [box.left, box.right], { count: 10, padded: false });
    root.append(svg("rect.nbc-band", { x: x(-WIDTH_95), y: top, width: x(WIDTH_95) - x(-WIDTH_95), height: bottom - top }));
    axes(root, box, x, y, { x: trans.__("%1: residual / standard deviation", shorten(calibration.metric, 24)), y: trans.__("trials") });
    columns.forEach((n, i) => {
      const [from, to] = [x(i * COLUMN - FAR), x((i + 1) * COLUMN - FAR)];
      const isFar = Math.abs((i + 0.5) * COLUMN - FAR) > WIDTH_95;
      root.append(svg("rect", { class: isFar ? "nbc-gain" : "nbc-column", x: from + 1, y: y(n), width: Math.max(1, to - from - 2), height: bottom - y(n) }));
    });
    this.#place.append(el("p.nbc-trust", {}, userText(calibration.sentence)), root);
  }
}
