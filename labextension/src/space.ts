// Points and unit coordinates, as nbcompress/space maps them: the coordinate of a value, the value of a coordinate, and
// which parameters are active.

import type { Parameter, Scalar } from "./data";

export type Point = Record<string, Scalar>;

const MIDDLE = 0.5;

// The options of a choice in the order of the unit interval: sorted if they are ordered numbers, else as given.
export function optionsOf(parameter: Parameter): Scalar[] {
  const options = parameter.options ?? [];
  const isByValue = parameter.ordered && options.every((option) => typeof option === "number");
  return isByValue ? [...options].sort((a, b) => Number(a) - Number(b)) : [...options];
}

export function isActive(parameter: Parameter, point: Point): boolean {
  return (
    !parameter.when ||
    parameter.when.some((whenCase) => Object.entries(whenCase).every(([name, values]) => name in point && values.includes(point[name] ?? null)))
  );
}

// Returns the number of values of a parameter, or null if it is infinite.
export function countValues(parameter: Parameter): number | null {
  const { kind, step } = parameter;
  const { low, high } = rangeOf(parameter);
  if (kind === "choice") {
    return parameter.options?.length ?? 0;
  }
  if (low === high) {
    return 1;
  }
  return step ? Math.round((high - low) / step) + 1 : null;
}

function rangeOf(parameter: Parameter): { low: number; high: number; width: number } {
  const { low = 0, high = 1, log } = parameter;
  return { low, high, width: log ? Math.log(high) - Math.log(low) : 0 };
}

export function toUnit(parameter: Parameter, value: Scalar): number {
  if (parameter.kind === "choice") {
    const options = optionsOf(parameter);
    return options.length > 1 ? Math.max(0, options.indexOf(value)) / (options.length - 1) : 0;
  }
  const { low, high, width } = rangeOf(parameter);
  if (low === high) {
    return 0;
  }
  const number = Number(value);
  return width > 0 ? Math.min(1, Math.max(0, (Math.log(number) - Math.log(low)) / width)) : (number - low) / (high - low);
}

export function fromUnit(parameter: Parameter, u: number): Scalar {
  const { low, high, width } = rangeOf(parameter);
  const count = countValues(parameter);
  const index = Math.round(u * ((count ?? 1) - 1));
  if (parameter.kind === "choice") {
    return optionsOf(parameter)[index] ?? null;
  }
  const exact = u <= 0 ? low : u >= 1 ? high : width > 0 ? Math.exp(Math.log(low) + u * width) : low + u * (high - low);
  const value = Math.min(high, Math.max(low, exact));
  if (parameter.kind === "int" && width > 0) {
    const [below, above] = [Math.floor(value), Math.min(high, Math.floor(value) + 1)];
    return u - toUnit(parameter, below) <= toUnit(parameter, above) - u ? below : above;
  }
  // Steps add up in decimals, as a user writes them.
  return count === null || count === 1 ? value : Number((low + index * (parameter.step ?? 1)).toPrecision(12));
}

// Returns the point with every active parameter and no other; a missing value becomes the middle of its range.
export function completePoint(parameters: readonly Parameter[], point: Point): Point {
  const found: Point = {};
  for (const parameter of parameters) {
    if (isActive(parameter, found)) {
      found[parameter.name] = parameter.name in point ? (point[parameter.name] ?? null) : fromUnit(parameter, MIDDLE);
    }
  }
  return found;
}

// Returns at most `most` evenly spaced coordinates, each that of a value.
export function gridOf(parameter: Parameter, most: number): number[] {
  const count = countValues(parameter) ?? most;
  const n = Math.min(count, most);
  const even = Array.from({ length: n }, (_, i) => (n > 1 ? i / (n - 1) : 0));
  return [...new Set(even.map((u) => toUnit(parameter, fromUnit(parameter, u))))];
}
