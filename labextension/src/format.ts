// Formats numbers and texts by the rules of nbcompress/panels/text.py.

import type { Constraint, Maybe, Scalar, Study, Trial } from "./data";
import { trans } from "./words";

// The same as in nbcompress/panels/text.py.
const LOOKS_LIKE_ANOTHER = /^(\s.*|.*\s||None|True|False|\?|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)$/s;

// A string is in quotes if it would look like another value: "" like an empty cell, "None" like None, "8" like 8.
export function formatValue(value: Scalar | undefined): string {
  if (value === undefined) {
    return "";
  }
  if (value === null) {
    return "None";
  }
  if (typeof value === "boolean") {
    return value ? "True" : "False";
  }
  if (typeof value === "string") {
    return LOOKS_LIKE_ANOTHER.test(value) ? `"${value}"` : value;
  }
  if (Number.isInteger(value) && Math.abs(value) < 1e6) {
    return String(value);
  }
  return String(Number(value.toPrecision(4)));
}

// A metric that is not known is an empty cell, while a parameter may have the value None.
export function formatMetric(value: Maybe | undefined): string {
  return value === null || value === undefined ? "" : formatValue(value);
}

export function formatDuration(seconds: Maybe): string {
  if (seconds === null) {
    return "?";
  }
  if (seconds < 10) {
    return seconds >= 0.001 ? `${Number(seconds.toPrecision(2))} s` : "0 s";
  }
  const whole = Math.round(seconds);
  if (whole < 60) {
    return `${whole} s`;
  }
  return whole < 3600 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export function shorten(text: string, limit: number): string {
  return text.length <= limit ? text : text.slice(0, limit - 1) + "…";
}

export function boundText(constraint: Constraint): string {
  return `${shorten(constraint.metric, 30)} ${constraint.operator} ${formatValue(constraint.bound)}`;
}

export function goalText(goal: Study["goal"]): string {
  const aim = ({ direction, metric }: Study["goal"]["objectives"][number]) =>
    direction === "maximize" ? trans.__("maximize %1", metric) : trans.__("minimize %1", metric);
  const parts = goal.objectives.map(aim).join(", ");
  const bounds = goal.constraints
    .map((constraint) => `${constraint.metric} ${constraint.operator} ${formatValue(constraint.bound)}`)
    .join(` ${trans.__("and")} `);
  return bounds ? trans.__("%1, subject to %2", parts, bounds) : parts;
}

export function metricsText(trial: Trial, metrics: readonly string[]): string {
  const known = metrics.filter((name) => typeof trial.metrics[name] === "number");
  return known.map((name) => `${name} ${formatMetric(trial.metrics[name])}`).join(", ");
}

export function paramsText(trial: Trial): string {
  return Object.entries(trial.params)
    .map(([name, value]) => `${name} = ${formatValue(value)}`)
    .join(", ");
}

// Returns one limit as text: a range, or the remaining options.
export function limitText(name: string, values: readonly Scalar[]): string {
  const isRange = values.length === 2 && values.every((value) => typeof value === "number") && values[0] !== values[1];
  const shown = [...new Set(values.map((value) => shorten(formatValue(value), 30)))];
  return isRange ? trans.__("%1 from %2 to %3", shorten(name, 40), shown[0] ?? "", shown[1] ?? "") : `${shorten(name, 40)} ${orList(shown)}`;
}

// Returns texts with "or" between them.
export function orList(texts: readonly string[]): string {
  return texts.join(` ${trans.__("or")} `);
}

export function limitsText(limits: Study["narrowed"]): string {
  return Object.entries(limits ?? {})
    .map(([name, values]) => limitText(name, values))
    .join(", ");
}
