// The empirical distribution of a metric: the share of the complete trials up to each value.

import { axes, axisNote, canvas, HEIGHT, isMaximized, leftOf, MARGIN, stepPath } from "./chart";
import { svg } from "./dom";
import type { Study, Trial } from "./data";
import { formatValue, shorten } from "./format";
import { ChartPart } from "./part";
import { keyHelp, trialPlace, trialText } from "./plot";
import { linearScale, valueScale } from "./scales";
import { trans } from "./words";

export interface Share {
  trial: Trial;
  value: number;
  share: number;
}

// Returns the complete trials by their value, each with the share of values that are not larger.
export function sharesOf(trials: readonly Trial[], metric: string): Share[] {
  const known = trials.flatMap((trial) => {
    const value = trial.metrics[metric];
    return trial.state === "complete" && typeof value === "number" ? [{ trial, value }] : [];
  });
  known.sort((a, b) => a.value - b.value);
  const shares = known.map((row, i) => ({ ...row, share: (i + 1) / known.length }));
  // Equal values have the share of the last of them.
  for (let i = shares.length - 2; i >= 0; i--) {
    const [row, next] = [shares[i], shares[i + 1]];
    if (row && next && row.value === next.value) {
      row.share = next.share;
    }
  }
  return shares;
}

// Returns the corners of the steps, from 0 at the lowest value.
export function shareSteps(shares: readonly Share[]): [number, number][] {
  const [first] = shares;
  return first ? [[first.value, 0], ...shares.map(({ value, share }): [number, number] => [value, share])] : [];
}

export class Distribution extends ChartPart {
  #metric: string | null = null;

  protected drawChart(study: Study): void {
    const metric = study.metrics.find((name) => name === this.#metric) ?? study.metrics[0] ?? "";
    this.drawSelects({ label: trans.__("Metric"), options: study.metrics, chosen: metric, change: (value) => (this.#metric = value) });
    const all = sharesOf(study.trials, metric);
    if (!all.length) {
      this.plot.message(trans.__("No complete trial has this metric yet."));
      return;
    }
    const ends = [formatValue(all[0]?.value), formatValue(all.at(-1)?.value)];
    const label = `${trans.__("Share of %1 complete trials up to each %2, from %3 to %4.", all.length, metric, ...ends)} ${keyHelp()}`;
    const { root, width } = canvas(this.plot.element, HEIGHT, shorten(label, 300));
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const y = this.plot.zoomed("y", linearScale([0, 1], [bottom, top], { padded: false }));
    const box = { left: leftOf(y), right: width - MARGIN.right, top, bottom };
    const values = all.map(({ value }) => value);
    const x = this.plot.zoomed("x", valueScale(values, [box.left, box.right], isMaximized(study, metric), Math.max(3, width / 90)));
    axes(root, box, x, y, { x: metric, y: trans.__("share of trials up to the value"), xNote: axisNote(study, metric, x) });
    const layer = this.plot.layer(root, box);
    const hasLimits = this.selection.limits.size > 0;
    const inside = hasLimits
      ? sharesOf(
          study.trials.filter((trial) => this.selection.has(trial)),
          metric,
        )
      : all;
    for (const [shares, kind] of [
      [all, hasLimits ? "nbc-thread nbc-out" : ""],
      [inside, "nbc-line"],
    ] as const) {
      if (kind) {
        layer.append(svg("path", { class: kind, d: stepPath(shareSteps(shares).map(([value, share]) => [x(value), y(share)] as const)) }));
      }
    }
    const places = inside.map(({ trial, value, share }) => {
      return trialPlace(
        trial,
        x(value),
        y(share),
        () => `${trialText(trial)}\n${trans.__("%1 %% of the trials are not above %2", Math.round(100 * share), formatValue(value))}`,
      );
    });
    const chosen = places.find(({ number }) => number === this.selection.number);
    if (chosen) {
      layer.append(svg("circle.nbc-chosen", { cx: chosen.x, cy: chosen.y, r: 6 }));
    }
    this.plot.show(root, box, x, y, places);
  }
}
