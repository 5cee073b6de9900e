// The Acquisition tab: predictions and acquisition along one parameter, or over two as maps.

import { axes, canvas, showMessage, HEIGHT, leftOf, linePath, MARGIN, replaceChart, type Box } from "./chart";
import { choice, el, svg, userText } from "./dom";
import type { Maybe, Slice, SliceMetric, Study, Trial } from "./data";
import { shorten, formatValue } from "./format";
import { drawMaps, makeMaps, type Maps } from "./heatmap";
import type { Part } from "./part";
import { bandScale, extent, linearScale, logScale, type Scale } from "./scales";
import type { Selection } from "./selection";
import { Surrogate } from "./surrogate";
import { trans } from "./words";

const SHARE = 0.64;
// With at most this many values each one is drawn as a mark with a whisker; vertical lines are drawn beside the marks.
const MAX_MARKS = 12;
const MARK_OFFSET = 14;

export class Acquisition implements Part {
  readonly element = el("div");
  readonly #tools = el("div.nbc-tools", {});
  readonly #place = el("div.nbc-place", {});
  readonly #caption = el("p.nbc-caption", {});
  #parameter: string | null = null;
  #second: string | null = null;
  #metric: string | null = null;
  #drawn = "";
  #maps: { key: unknown[]; maps: Maps } | null = null;
  #study: Study | null = null;

  constructor(private readonly selection: Selection) {
    this.element.append(this.#tools, this.#place, this.#caption);
  }

  draw(study: Study): void {
    this.#study = study;
    const surrogate = Surrogate.of(study);
    const through = centerTrial(study, surrogate ? this.selection.number : study.best);
    // A trial may have parameters that the study has not, in data of another origin.
    const known = new Set(study.parameters.map((parameter) => parameter.name));
    const moved = surrogate && through ? sortByImportance(study, Object.keys(through.params)) : study.slices.map((slice) => slice.parameter);
    const names = moved.filter((name) => known.has(name));
    const name = names.find((other) => other === this.#parameter) ?? names[0];
    const slice = name === undefined ? undefined : this.#slice(study, surrogate, through, name);
    const metric = slice?.metrics.find((other) => other.metric === this.#metric) ?? slice?.metrics[0];
    if (!slice || !metric || !slice.values.length) {
      this.#tools.replaceChildren();
      this.#caption.textContent = "";
      this.#drawn = "";
      showMessage(
        this.#place,
        study.state === "running"
          ? trans.__("The surrogate is shown here once it has enough trials.")
          : trans.__("This study was saved without slices of the surrogate."),
      );
      return;
    }
    // A parameter that is shown stays, even if another one becomes more important.
    this.#parameter = slice.parameter;
    const others = surrogate ? names.filter((other) => other !== slice.parameter) : [];
    const second = others.find((other) => other === this.#second) ?? null;
    this.#drawTools(names, others, slice, second, metric);
    if (surrogate && through && second !== null) {
      this.#drawMaps(study, surrogate, through, [slice.parameter, second], metric.metric);
    } else {
      this.#drawSlice(study, slice, metric, through);
    }
  }

  // Returns the slice of the page, or Python's slice through the best point if only Python can compute the acquisition.
  #slice(study: Study, surrogate: Surrogate | null, through: Trial | null, name: string): Slice | undefined {
    const stored = study.slices.find((known) => known.parameter === name);
    const isStored = stored && through && study.slices.every((known) => through.params[known.parameter] === known.at);
    return !surrogate || !through || (isStored && !surrogate.hasAcquisition) ? stored : surrogate.slice(through.params, name);
  }

  #drawSlice(study: Study, slice: Slice, metric: SliceMetric, through: Trial | null): void {
    const label = trans.__("Predicted %1 along %2 with its 95 percent band, and the acquisition below", metric.metric, slice.parameter);
    const { root, width } = canvas(this.#place, HEIGHT, shorten(label, 300));
    const hasGain = slice.acquisition.some((value) => value !== null);
    const split = MARGIN.top + (HEIGHT - MARGIN.top - MARGIN.bottom) * (hasGain ? SHARE : 1);
    const up = meanScale(metric, [split - 6, MARGIN.top]);
    const above = { left: leftOf(up), right: width - MARGIN.right, top: MARGIN.top, bottom: split - 6 };
    const below = hasGain ? { ...above, top: split + 6, bottom: HEIGHT - MARGIN.bottom } : above;
    const { x, places } = this.#across(study, slice, above);
    this.#drawMean(root, above, x, up, places, metric, hasGain ? null : slice.parameter);
    if (hasGain) {
      this.#drawAcquisition(root, below, x, places, slice);
    }
    this.#drawNext(root, above, below, places, slice);
    this.#drawRunning(root, above, below, x, study, slice);
    replaceChart(this.#place, root);
    // The best point may have changed since Python computed its slices.
    const passes = through && through.params[slice.parameter] === slice.at ? through : null;
    const next = formatValue(slice.next);
    const where = passes
      ? trans.__("On this line through %1, the acquisition is largest at %2 = %3.", trialName(study, passes), slice.parameter, next)
      : trans.__("On this line, the acquisition is largest at %1 = %2.", slice.parameter, next);
    const source = study.surrogate ? "" : trans.__("This surrogate has no closed form on this page: the slices were computed in Python.");
    this.#caption.replaceChildren(userText([source, slice.next === null ? "" : where, reasonText(study)].filter(Boolean).join(" ")));
  }

  #drawMaps(study: Study, surrogate: Surrogate, through: Trial, names: [string, string], metric: string): void {
    const key = [surrogate, through.number, ...names, metric];
    if (!this.#maps || this.#maps.key.some((part, i) => part !== key[i])) {
      this.#maps = { key, maps: makeMaps(study, surrogate, through.params, names, metric) };
    }
    const { maps } = this.#maps;
    replaceChart(this.#place, drawMaps(this.#place, study, maps, through));
    const ring = trialName(study, through);
    const isRunning = study.trials.some((trial) => trial.state === "running");
    const marks = isRunning
      ? trans.__("Dots are trials, the ring is %1, the cross is the running trial.", ring)
      : trans.__("Dots are trials, the ring is %1.", ring);
    const at = maps.most && [names[0], formatValue(maps.most.across), names[1], formatValue(maps.most.up)];
    const most = at ? trans.__("The diamond marks the largest acquisition: %1 = %2, %3 = %4.", ...at) : "";
    this.#caption.replaceChildren(userText([marks, most, reasonText(study)].filter(Boolean).join(" ")));
  }

  #drawTools(names: readonly string[], others: readonly string[], slice: Slice, second: string | null, metric: SliceMetric): void {
    const metrics = slice.metrics.map((known) => known.metric);
    const key = JSON.stringify([names, others, metrics, slice.parameter, second, metric.metric]);
    if (key === this.#drawn) {
      return;
    }
    this.#drawn = key;
    const redraw = () => this.#study && this.draw(this.#study);
    const alone = trans.__("(alone)");
    const pick = (value: string) => (value === alone ? null : value);
    this.#tools.replaceChildren(
      choice(trans.__("Along"), names, slice.parameter, (value) => ((this.#parameter = value), redraw())),
      ...(others.length ? [choice(trans.__("and"), [alone, ...others], second ?? alone, (value) => ((this.#second = pick(value)), redraw()))] : []),
      ...(metrics.length > 1 ? [choice(trans.__("Metric"), metrics, metric.metric, (value) => ((this.#metric = value), redraw()))] : []),
    );
  }

  #across(study: Study, slice: Slice, box: Box): { x: Scale; places: number[] } {
    const range: [number, number] = [box.left, box.right];
    const numbers = slice.values.filter((value): value is number => typeof value === "number");
    const parameter = study.parameters.find((known) => known.name === slice.parameter);
    const domain = extent(numbers);
    if (numbers.length < slice.values.length || parameter?.kind === "choice" || !domain) {
      const x = bandScale(slice.values.map(formatValue), range);
      return { x, places: slice.values.map((_, i) => x(i)) };
    }
    const x = parameter?.log && domain[0] > 0 ? logScale(domain, range) : linearScale(domain, range, { padded: false });
    return { x, places: numbers.map(x) };
  }

  #drawMean(root: SVGSVGElement, box: Box, x: Scale, y: Scale, places: readonly number[], metric: SliceMetric, name: string | null): void {
    axes(root, box, x, y, { x: name, y: metric.metric });
    const [low, mean, high] = [metric.low, metric.mean, metric.high].map((values) => positions(places, values, y));
    if (!low || !mean || !high) {
      return;
    }
    if (places.length > MAX_MARKS) {
      root.append(svg("path.nbc-band", { d: `${linePath([...high, ...[...low].reverse()])}Z` }));
      root.append(svg("path.nbc-line", { d: linePath(mean) }));
      return;
    }
    mean.forEach(([at, middle], i) => {
      root.append(svg("line.nbc-whisker", { x1: at, x2: at, y1: low[i]?.[1] ?? middle, y2: high[i]?.[1] ?? middle }));
      root.append(svg("circle", { class: "nbc-mark nbc-complete", cx: at, cy: middle, r: 4.5 }));
    });
  }

  #drawAcquisition(root: SVGSVGElement, box: Box, x: Scale, places: readonly number[], slice: Slice): void {
    const known = slice.acquisition.filter((value): value is number => value !== null);
    const y = linearScale(extent(known) ?? [0, 1], [box.bottom, box.top], { count: 2 });
    axes(root, box, x, withoutTicks(y), { x: slice.parameter, y: trans.__("acquisition") });
    const points = positions(places, slice.acquisition, y);
    if (places.length > MAX_MARKS) {
      const [first, last] = [points[0], points.at(-1)];
      if (first && last) {
        root.append(svg("path.nbc-gain", { d: `M${first[0]} ${box.bottom}L${linePath(points).slice(1)}L${last[0]} ${box.bottom}Z` }));
      }
      return;
    }
    points.forEach(([at, top]) => {
      root.append(svg("rect.nbc-gain", { x: at - 9, y: top, width: 18, height: Math.max(1, box.bottom - top) }));
    });
  }

  // Marks the values of the trials that run.
  #drawRunning(root: SVGSVGElement, above: Box, below: Box, x: Scale, study: Study, slice: Slice): void {
    const parameter = study.parameters.find((known) => known.name === slice.parameter);
    const isNumber = slice.values.every((value) => typeof value === "number") && parameter?.kind !== "choice";
    for (const trial of study.trials.filter((known) => known.state === "running")) {
      const value = trial.params[slice.parameter];
      const at = isNumber ? (typeof value === "number" ? x(value) : NaN) : slice.values.findIndex((known) => known === value);
      const place = (isNumber ? at : at < 0 ? NaN : x(at)) + (slice.values.length > MAX_MARKS ? 0 : MARK_OFFSET);
      if (place >= above.left && place <= above.right) {
        const isRight = place > (above.left + above.right) / 2;
        const words = { class: "nbc-note", x: place + (isRight ? -5 : 5), y: above.bottom - 5, "text-anchor": isRight ? "end" : "start" };
        root.append(
          svg("line.nbc-now", { x1: place, x2: place, y1: above.top, y2: below.bottom }),
          svg("text", words, trans.__("trial %1 runs here", trial.number)),
        );
      }
    }
  }

  #drawNext(root: SVGSVGElement, above: Box, below: Box, places: readonly number[], slice: Slice): void {
    const place = slice.next === null ? undefined : places[slice.values.indexOf(slice.next)];
    if (place === undefined) {
      return;
    }
    const at = place - (slice.values.length > MAX_MARKS ? 0 : MARK_OFFSET);
    const isRight = at > (above.left + above.right) / 2;
    root.append(svg("line.nbc-next", { x1: at, x2: at, y1: above.top, y2: below.bottom }));
    root.append(
      svg("text.nbc-note", { x: at + (isRight ? -5 : 5), y: above.top - 1, "text-anchor": isRight ? "end" : "start" }, trans.__("largest acquisition")),
    );
  }
}

function meanScale(metric: SliceMetric, range: [number, number]): Scale {
  const known = [...metric.low, ...metric.high, ...metric.mean].filter((value): value is number => value !== null);
  return linearScale(extent(known) ?? [0, 1], range, { count: 4 });
}

// Returns the trial through which slices and maps pass: the selected one, else the best.
function centerTrial(study: Study, chosen: number | null): Trial | null {
  const found = study.trials.find((trial) => trial.number === chosen) ?? study.trials.find((trial) => trial.number === study.best);
  return found ?? null;
}

function sortByImportance(study: Study, names: readonly string[]): string[] {
  const share = (name: string): number => study.importance?.[name] ?? 0;
  return [...names].sort((a, b) => share(b) - share(a));
}

function trialName(study: Study, { number }: Trial): string {
  return number === study.best ? trans.__("trial %1 (the best)", number) : trans.__("trial %1", number);
}

// Returns the reason for the latest point.
function reasonText(study: Study): string {
  const latest = study.trials.findLast((trial) => trial.state === "running") ?? study.trials.at(-1);
  if (!latest?.reason) {
    return "";
  }
  const { number, reason } = latest;
  return latest.state === "running" ? trans.__("Why trial %1 runs: %2", number, reason) : trans.__("Why trial %1 ran: %2", number, reason);
}

// The acquisition has no unit, so its axis has no numbers.
function withoutTicks(y: Scale): Scale {
  return Object.assign((value: number) => y(value), { ...y, ticks: [] });
}

function positions(places: readonly number[], values: readonly Maybe[], y: Scale): [number, number][] {
  return values.flatMap((value, i) => {
    const at = places[i];
    return value === null || at === undefined ? [] : [[at, y(value)] as [number, number]];
  });
}
