// What every part of a view follows: the selected trial, and the limits that fade the trials outside of them.

import type { Scalar, Trial } from "./data";

// The part of an axis that was chosen: a range of numbers, or some options.
export type Limit = { low: number; high: number } | { options: readonly Scalar[] };

// The key of an axis or column: a metric or a parameter by its name.
export const metricKey = (name: string): string => `m:${name}`;
export const paramKey = (name: string): string => `p:${name}`;

export function valueOf(trial: Trial, key: string): Scalar | undefined {
  const name = key.slice(2);
  return key.startsWith("m:") ? (trial.metrics[name] ?? undefined) : trial.params[name];
}

// A trial that lacks a value, such as that of an inactive parameter, is outside of any limit on it.
export function meets(value: Scalar | undefined, limit: Limit): boolean {
  if (value === undefined) {
    return false;
  }
  return "options" in limit ? limit.options.includes(value) : typeof value === "number" && value >= limit.low && value <= limit.high;
}

export class Selection {
  #chosen: number | null = null;
  #ranges: ReadonlyMap<string, Limit> = new Map();
  readonly #listeners = new Set<() => void>();

  get number(): number | null {
    return this.#chosen;
  }

  get limits(): ReadonlyMap<string, Limit> {
    return this.#ranges;
  }

  choose(number: number | null): void {
    if (number !== this.#chosen) {
      this.#chosen = number;
      this.#notify();
    }
  }

  // Sets the limit of one axis; null ends it.
  limit(key: string, limit: Limit | null): void {
    const ranges = new Map(this.#ranges);
    ranges.delete(key);
    if (limit) {
      ranges.set(key, limit);
    }
    this.setLimits(ranges);
  }

  setLimits(ranges: ReadonlyMap<string, Limit>): void {
    if (ranges.size || this.#ranges.size) {
      this.#ranges = ranges;
      this.#notify();
    }
  }

  // Returns whether a trial is within all limits.
  has(trial: Trial): boolean {
    for (const [key, limit] of this.#ranges) {
      if (!meets(valueOf(trial, key), limit)) {
        return false;
      }
    }
    return true;
  }

  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #notify(): void {
    this.#listeners.forEach((listener) => listener());
  }
}
