// A Gaussian process in closed form: the predictions of nbcompress/optimize/surrogates/closed_form.py.

import type { OutcomeTransform, ProcessData, SurrogateData } from "./data";

const SQRT5 = Math.sqrt(5);
// A smaller predicted variance of standardised values is a rounding error.
const VARIANCE_FLOOR = 1e-12;
const LOG_TAIL_SCALE = 3;
const MAX_TAIL_EXPONENT = 300;

// Mean and standard deviation of standardised values.
export type Posterior = readonly [mean: number, std: number];

export class Process {
  readonly #n: number;
  // The points, divided by the lengthscales; L of the covariance; and a = K^-1 (y - H b).
  readonly #z: Float64Array[];
  // The rows of the trend's basis at these points, times the root of its variance.
  readonly #rows: Float64Array[];
  readonly #factor: Float64Array[];
  readonly #a: Float64Array;
  readonly #scales: Float64Array;

  // `features`: those of the process' trials; `owner`: the index of the parameter of each feature.
  constructor(
    readonly data: ProcessData,
    private readonly kernel: SurrogateData["kernel"],
    features: readonly Float64Array[],
    owner: readonly number[],
  ) {
    this.#n = features.length;
    this.#scales = Float64Array.from(owner, (i) => data.lengthscales[i] ?? NaN);
    this.#z = features.map((point) => this.#scaled(point));
    this.#rows = features.map((point) => this.#trend(point));
    this.#factor = this.#factorize();
    const rest = Float64Array.from(features, (point, i) => (data.y[i] ?? NaN) - this.#basis(point));
    this.#a = this.#backward(this.#forward(rest));
  }

  predict(features: Float64Array): Posterior {
    const k = this.#covariances(features);
    const half = this.#forward(k);
    const row = this.#trend(features);
    const variance = this.data.signal + dot(row, row) - dot(half, half);
    return [this.#basis(features) + dot(k, this.#a), Math.sqrt(Math.max(VARIANCE_FLOOR, variance))];
  }

  mean(features: Float64Array): number {
    return this.#basis(features) + dot(this.#covariances(features), this.#a);
  }

  #scaled(features: Float64Array): Float64Array {
    return features.map((feature, i) => feature / (this.#scales[i] ?? NaN));
  }

  #basis(features: Float64Array): number {
    const { b } = this.data;
    return features.reduce((sum, feature, i) => sum + feature * (b[i + 1] ?? 0), b[0] ?? 0);
  }

  #covariances(features: Float64Array): Float64Array {
    const z = this.#scaled(features);
    const row = this.#trend(features);
    return Float64Array.from(this.#z, (point, i) => this.data.signal * this.#correlation(distance(z, point)) + dot(row, this.#rows[i]!));
  }

  // Lines and parabolas along the features, with mean 0 over a uniform distribution; see closed_form.py.
  #trend(features: Float64Array): Float64Array {
    const variance = this.data.trend ?? 0;
    const share = Math.sqrt((0.5 * variance) / Math.max(features.length, 1));
    return Float64Array.from({ length: variance > 0 ? 2 * features.length : 0 }, (_, i) => {
      const centred = (features[i % features.length] ?? NaN) - 0.5;
      return share * (i < features.length ? Math.sqrt(12) * centred : Math.sqrt(180) * (centred * centred - 1 / 12));
    });
  }

  #correlation(r2: number): number {
    if (this.kernel === "rbf") {
      return Math.exp(-0.5 * r2);
    }
    if (this.kernel === "matern12") {
      return Math.exp(-Math.sqrt(r2));
    }
    if (this.kernel === "matern32") {
      const r = Math.sqrt(3 * r2);
      return (1 + r) * Math.exp(-r);
    }
    const r = SQRT5 * Math.sqrt(r2);
    return (1 + r + (5 / 3) * r2) * Math.exp(-r);
  }

  // Rows of L with L L' = K.
  #factorize(): Float64Array[] {
    const { signal, noise, noises } = this.data;
    const rows: Float64Array[] = [];
    for (let i = 0; i < this.#n; i++) {
      const row = new Float64Array(i + 1);
      for (let j = 0; j <= i; j++) {
        const other = rows[j] ?? row;
        let sum = i === j ? signal + (noises?.[i] ?? noise) : signal * this.#correlation(distance(this.#z[i]!, this.#z[j]!));
        sum += dot(this.#rows[i]!, this.#rows[j]!);
        for (let k = 0; k < j; k++) {
          sum -= row[k]! * other[k]!;
        }
        row[j] = i === j ? Math.sqrt(sum) : sum / other[j]!;
      }
      rows.push(row);
    }
    return rows;
  }

  // L^-1 v
  #forward(v: Float64Array): Float64Array {
    const solution = new Float64Array(this.#n);
    for (let i = 0; i < this.#n; i++) {
      const row = this.#factor[i]!;
      let sum = v[i]!;
      for (let j = 0; j < i; j++) {
        sum -= row[j]! * solution[j]!;
      }
      solution[i] = sum / row[i]!;
    }
    return solution;
  }

  // L'^-1 v
  #backward(v: Float64Array): Float64Array {
    const solution = v.slice();
    for (let i = this.#n - 1; i >= 0; i--) {
      const row = this.#factor[i]!;
      const value = solution[i]! / row[i]!;
      solution[i] = value;
      for (let j = 0; j < i; j++) {
        solution[j]! -= row[j]! * value;
      }
    }
    return solution;
  }
}

function distance(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) {
    const off = a[i]! - b[i]!;
    sum += off * off;
  }
  return sum;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) {
    sum += a[i]! * b[i]!;
  }
  return sum;
}

// Returns mean and deviation in the units of the metric; with a log tail, values above the knee grow exponentially.
export function untransform([mean, std]: Posterior, { shift, scale, knee, unit, damped }: OutcomeTransform): Posterior {
  const expand = (w: number): number => (damped && w > 0 ? LOG_TAIL_SCALE * Math.expm1(Math.min(w / LOG_TAIL_SCALE, MAX_TAIL_EXPONENT)) : w);
  const w = shift + scale * mean;
  const band = scale * std;
  return [knee + unit * expand(w), unit * 0.5 * (expand(w + band) - expand(w - band))];
}

export function standardize(value: number, { shift, scale, knee, unit, damped }: OutcomeTransform): number {
  const w = (value - knee) / unit;
  return ((damped && w > 0 ? LOG_TAIL_SCALE * Math.log1p(w / LOG_TAIL_SCALE) : w) - shift) / scale;
}
