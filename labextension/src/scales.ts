// Scales map values to positions, with readable ticks.

import type { Parameter, Scalar } from "./data";
import { formatValue } from "./format";
import { optionsOf } from "./space";

export interface Scale {
  (value: number): number;
  ticks: { value: number; label: string }[];
  range: [number, number];
  isLog: boolean;
  // Returns the value at a position.
  invert: (position: number) => number;
}

const PADDING = 0.06;
const WIDE = 20;
const ROUNDING = 1e-13;

export function extent(values: Iterable<number>): [number, number] | null {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (Number.isFinite(value)) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return low <= high ? [low, high] : null;
}

export function niceStep(span: number, count: number): number {
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const ratio = rough / power;
  return power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
}

function tickLabel(value: number, step: number): string {
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e6 || size < 1e-4) ? Number(value.toPrecision(3)).toExponential() : value.toFixed(Math.min(digits, 8));
}

export interface Ticking {
  count?: number;
  padded?: boolean;
  whole?: boolean;
}

export function linearScale(domain: [number, number], range: [number, number], { count = 5, padded = true, whole = false }: Ticking = {}): Scale {
  // Computed in a unit in which neither the ends nor their difference leave the range of a number.
  const size = Math.max(Math.abs(domain[0]), Math.abs(domain[1]));
  const unit = size > 1e300 ? 1e20 : size < 1e-290 && size > 0 ? 1e-30 : 1;
  const [first, last] = [domain[0] / unit, domain[1] / unit];
  const span = last - first;
  // A single value stands in the middle of an axis, and so do values that differ by rounding only: between them there
  // are too few numbers for ticks.
  const edge = span <= ROUNDING * (size / unit) ? Math.abs(first) / 2 || 1 : padded ? span * PADDING : 0;
  const [low, high] = [first - edge, last + edge];
  const place = (value: number) => range[0] + ((value / unit - low) / (high - low)) * (range[1] - range[0]);
  const step = Math.max(niceStep(high - low, count), whole ? 1 / unit : 0);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) {
    const value = i * step * unit;
    if (Number.isFinite(value)) {
      ticks.push({ value, label: tickLabel(value, step * unit) });
    }
  }
  const invert = (at: number) => (low + ((at - range[0]) / (range[1] - range[0])) * (high - low)) * unit;
  return Object.assign(place, { ticks, range, invert, isLog: false });
}

export function logScale(domain: [number, number], range: [number, number], { count = 6, padded = false }: Ticking = {}): Scale {
  const ends = domain.map(Math.log10) as [number, number];
  const edge = (ends[1] - ends[0] || 1) * (padded ? PADDING : 0);
  const [low, high] = [ends[0] - edge, ends[1] + edge];
  const span = high - low || 1;
  const place = (value: number) => range[0] + ((Math.log10(value) - low) / span) * (range[1] - range[0]);
  const ticks = logTicks(low, high, count).map((value) => ({ value, label: logLabel(value) }));
  const invert = (at: number) => 10 ** (low + ((at - range[0]) / (range[1] - range[0])) * span);
  return Object.assign(place, { ticks, range, invert, isLog: true });
}

// The densest of 1 2 5 10, 1 3 10, 1 10, 1 100, ... that has at most `count` ticks.
function logTicks(low: number, high: number, count: number): number[] {
  for (const digits of [[1, 2, 5], [1, 3], [1]]) {
    const found = powers(low, high, 1).flatMap((power) => digits.map((digit) => Number(`${digit}e${power}`)));
    const inside = found.filter((tick) => Math.log10(tick) >= low - 1e-9 && Math.log10(tick) <= high + 1e-9);
    if (inside.length <= count) {
      return inside;
    }
  }
  const by = Math.ceil((high - low) / count);
  return powers(low, high, by)
    .map((power) => Number(`1e${power}`))
    .filter((tick) => Math.log10(tick) >= low - 1e-9 && Math.log10(tick) <= high + 1e-9);
}

function powers(low: number, high: number, by: number): number[] {
  const first = Math.floor(low / by) * by;
  return Array.from({ length: Math.floor((high - first) / by) + 1 }, (_, i) => first + i * by);
}

function logLabel(value: number): string {
  return value >= 1e5 || value < 1e-3 ? value.toExponential().replace("e+", "e") : String(value);
}

// Returns whether values are so far apart that a linear axis would squeeze most of them into a corner.
export function isWide(values: Iterable<number>): boolean {
  const ends = extent(values);
  return ends !== null && ends[0] > 0 && ends[1] / ends[0] > WIDE;
}

// A scale for measured values: logarithmic if they are far apart, unless `straight`.
export function valueScale(values: readonly number[], range: [number, number], straight: boolean, count = 5): Scale {
  const domain = extent(values) ?? [0, 1];
  return !straight && isWide(values) ? logScale(domain, range, { count, padded: true }) : linearScale(domain, range, { count });
}

// Positions 0, 1, 2, ... for labels.
export function bandScale(labels: readonly string[], range: [number, number]): Scale {
  const width = (range[1] - range[0]) / Math.max(1, labels.length);
  const place = (index: number) => range[0] + (index + 0.5) * width;
  const invert = (at: number) => (at - range[0]) / width - 0.5;
  return Object.assign(place, { ticks: labels.map((label, value) => ({ value, label })), range, invert, isLog: false });
}

// Returns a scale of the same kind that shows the values between two ends only.
export function zoomedScale(scale: Scale, ends: [number, number]): Scale {
  const count = Math.max(3, Math.abs(scale.range[1] - scale.range[0]) / 70);
  return (scale.isLog ? logScale : linearScale)(ends, scale.range, { count, padded: false });
}

// The scale of a parameter: its options as bands, or its range. A number outside of the range, of an older version of
// the study, has a place, too.
export function parameterScale(parameter: Parameter, values: Iterable<number>, range: [number, number], count = 5): Scale {
  if (parameter.kind === "choice") {
    return bandScale(optionsOf(parameter).map(formatValue), range);
  }
  const ends = extent([...[parameter.low, parameter.high].filter((end) => end !== undefined), ...values]) ?? [0, 1];
  const isLog = parameter.log === true && ends[0] > 0;
  return isLog ? logScale(ends, range, { count, padded: true }) : linearScale(ends, range, { count, whole: parameter.kind === "int" });
}

// Returns where a value of a parameter stands on its scale, or null if it has no place.
export function placeOf(parameter: Parameter, scale: Scale, value: Scalar | undefined): number | null {
  if (parameter.kind === "choice") {
    const at = value === undefined ? -1 : optionsOf(parameter).indexOf(value);
    return at < 0 ? null : scale(at);
  }
  return typeof value === "number" ? scale(value) : null;
}
