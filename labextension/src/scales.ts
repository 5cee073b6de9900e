// From values to positions and back to readable ticks.

export interface Scale {
  (value: number): number;
  ticks: { value: number; label: string }[];
}

const PADDING = 0.06;

export function extent(values: Iterable<number>): [number, number] | null {
  let low = Infinity;
  let high = -Infinity;
  for (const one of values) {
    if (Number.isFinite(one)) {
      low = Math.min(low, one);
      high = Math.max(high, one);
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

export function linear(domain: [number, number], range: [number, number], count = 5, padded = true): Scale {
  const span = domain[1] - domain[0] || Math.abs(domain[0]) || 1;
  const edge = padded || domain[1] === domain[0] ? span * PADDING : 0;
  const [low, high] = [domain[0] - edge, domain[1] + edge];
  const place = (value: number) => range[0] + ((value - low) / (high - low)) * (range[1] - range[0]);
  const step = niceStep(high - low, count);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) {
    const value = i * step;
    ticks.push({ value, label: tickLabel(value, step) });
  }
  return Object.assign(place, { ticks });
}

export function logarithmic(domain: [number, number], range: [number, number]): Scale {
  const [low, high] = [Math.log10(domain[0]), Math.log10(domain[1])];
  const span = high - low || 1;
  const place = (value: number) => range[0] + ((Math.log10(value) - low) / span) * (range[1] - range[0]);
  const ticks = [];
  for (let power = Math.ceil(low - 1e-9); power <= high + 1e-9; power++) {
    const value = 10 ** power;
    ticks.push({ value, label: value >= 1e5 || value < 1e-3 ? `1e${power}` : String(Number(value.toPrecision(2))) });
  }
  return Object.assign(place, { ticks });
}

// Positions 0, 1, 2, ... for words.
export function banded(labels: readonly string[], range: [number, number]): Scale {
  const width = (range[1] - range[0]) / Math.max(1, labels.length);
  const place = (index: number) => range[0] + (index + 0.5) * width;
  return Object.assign(place, { ticks: labels.map((label, value) => ({ value, label })) });
}
