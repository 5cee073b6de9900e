// The timeline: which trial ran when and where. Each worker has a row, and so has each place of a host on which every
// trial ran in a process of its own. Trials that ran at once in one worker, such as those of threads, stand below each
// other.

import { axes, canvas, leftOf, MARGIN } from "./chart";
import { svg } from "./dom";
import { STATES, type Study, type Trial } from "./data";
import { formatDuration, shorten } from "./format";
import { ChartPart } from "./part";
import { keyHelp, trialText, type TrialPlace } from "./plot";
import { bandScale, linearScale } from "./scales";
import { outline } from "./states";
import { trans } from "./words";

const ROW = 22;
const LEAST_ROW = 9;
// Rows become lower from this height of the chart on.
const TALL = 420;
const MARK = 3.4;
// A longer name of a worker is shortened in the middle, since its ends tell workers apart.
const NAME_LENGTH = 22;
// The units of the axis, each from the length of the search on from which it is used.
const UNITS = [
  { name: "h", seconds: 3600, from: 2 * 3600 },
  { name: "min", seconds: 60, from: 120 },
  { name: "s", seconds: 1, from: 0 },
] as const;

export interface Span {
  trial: Trial;
  start: number;
  end: number;
}

// A row of the chart; only the first row of a worker has its name.
export interface Lane {
  worker: string;
  isFirst: boolean;
  spans: Span[];
}

// Returns when each trial ran, in seconds since the first one began. A running trial lasts until the latest known time.
export function spansOf(trials: readonly Trial[]): Span[] {
  const timed = trials.flatMap((trial) => (trial.started === undefined ? [] : [{ trial, start: trial.started, end: endOf(trial) }]));
  const zero = timed.reduce((least, { start }) => Math.min(least, start), Infinity);
  const last = timed.reduce((most, { start, end }) => Math.max(most, start, end ?? start), -Infinity);
  return timed.map(({ trial, start, end }) => ({ trial, start: start - zero, end: Math.max(start, end ?? last) - zero }));
}

function endOf(trial: Trial): number | null {
  if (trial.ended !== undefined) {
    return trial.ended;
  }
  return trial.state === "running" || trial.seconds === null ? null : (trial.started ?? 0) + trial.seconds;
}

// Returns the rows, workers in the order in which they began.
export function lanesOf(spans: readonly Span[]): Lane[] {
  const counts = new Map<string, number>();
  spans.forEach(({ trial: { worker = "" } }) => counts.set(worker, (counts.get(worker) ?? 0) + 1));
  const workers = new Map<string, Lane[]>();
  for (const span of [...spans].sort((a, b) => a.start - b.start || a.trial.number - b.trial.number)) {
    const { worker: full = "" } = span.trial;
    // A process for each trial would give each trial a row; they share those of their host.
    const worker = counts.get(full) === 1 ? full.replace(/:\d+$/, "") : full;
    const lanes = workers.get(worker) ?? [];
    workers.set(worker, lanes);
    let lane = lanes.find((known) => (known.spans.at(-1)?.end ?? 0) <= span.start);
    if (!lane) {
      lane = { worker, isFirst: !lanes.length, spans: [] };
      lanes.push(lane);
    }
    lane.spans.push(span);
  }
  return [...workers.values()].flat();
}

export class Timeline extends ChartPart {
  protected drawChart(study: Study): void {
    const spans = spansOf(study.trials);
    if (!spans.length) {
      this.plot.message(trans.__("This study does not hold when its trials ran."));
      return;
    }
    const lanes = lanesOf(spans);
    const length = spans.reduce((most, { end }) => Math.max(most, end), 0);
    const unit = UNITS.find(({ from }) => length >= from) ?? UNITS[2];
    const workers = new Set(lanes.map(({ worker }) => worker)).size;
    const label = `${trans.__("Trials: %1; time: %2; workers: %3.", spans.length, formatDuration(length), workers)} ${keyHelp()}`;
    const row = Math.max(LEAST_ROW, Math.min(ROW, TALL / lanes.length));
    const bottom = MARGIN.top + Math.max(2 * ROW, row * lanes.length);
    const { root, width } = canvas(this.plot.element, bottom + MARGIN.bottom, label);
    const names = lanes.map((lane) => (lane.isFirst ? nameOf(lane.worker) : ""));
    const y = bandScale(names, [MARGIN.top, bottom]);
    const box = { left: leftOf(y), right: width - MARGIN.right, top: MARGIN.top, bottom };
    const x = this.plot.zoomed("x", linearScale([0, length / unit.seconds || 1], [box.left, box.right], { count: Math.max(3, width / 90), padded: false }));
    axes(root, box, x, y, { x: trans.__("time since the first trial began"), y: trans.__("worker"), xNote: unit.name });
    const places = lanes.flatMap((lane, i) => {
      return lane.spans.map((span) => barPlace(span, x(span.start / unit.seconds), x(span.end / unit.seconds), y(i)));
    });
    this.#drawBars(this.plot.layer(root, box), places, Math.min(row * 0.7, 14));
    this.plot.show(root, box, x, null, places);
  }

  // One path for each state: an element for each trial would be slow. A click finds the nearest bar.
  #drawBars(layer: SVGSVGElement, places: readonly BarPlace[], height: number): void {
    for (const isIn of [false, true]) {
      for (const state of STATES) {
        const bars = places.filter(({ trial }) => trial.state === state && this.selection.has(trial) === isIn);
        if (bars.length) {
          const kind = `nbc-${state}${isIn ? "" : " nbc-out"}`;
          layer.append(svg("path", { class: `nbc-run ${kind}`, d: bars.map((place) => rectangle(place, height)).join("") }));
          layer.append(svg("path", { class: `nbc-mark ${kind}`, d: bars.map((place) => outline(state, place.x, place.y, MARK)).join("") }));
        }
      }
    }
    const chosen = places.find(({ number }) => number === this.selection.number);
    if (chosen) {
      layer.append(svg("path.nbc-chosen", { d: rectangle(chosen, height + 5, 4) }));
    }
  }
}

// The bar of a trial: it ends at `x`, where the mark of its state stands.
interface BarPlace extends TrialPlace {
  from: number;
}

function barPlace(span: Span, from: number, x: number, y: number): BarPlace {
  const { trial, start, end } = span;
  const text = () => [trialText(trial), trans.__("%1 to %2", formatDuration(start), formatDuration(end)), trial.worker].filter(Boolean).join("\n");
  return { trial, from, x, y, number: trial.number, text };
}

function rectangle({ from, x, y }: BarPlace, height: number, more = 0): string {
  const [left, width] = [Math.round(10 * (from - more)) / 10, Math.max(1, Math.round(10 * (x - from + 2 * more)) / 10)];
  return `M${left} ${Math.round(10 * (y - height / 2)) / 10}h${width}v${height}h${-width}Z`;
}

function nameOf(worker: string): string {
  if (worker.length <= NAME_LENGTH) {
    return worker || trans.__("not known");
  }
  const half = NAME_LENGTH / 2;
  return `${shorten(worker, half)}${worker.slice(1 - half)}`;
}
