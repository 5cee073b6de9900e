// A Gaussian process in closed form: what nbcompress/optimize/surrogate.py predicts, from the same numbers.

import type { OutcomeTransform, ProcessData, SurrogateData } from "./data";

const SQRT5 = Math.sqrt(5);
// Below this the predicted variance of standardised values is rounding.
const VARIANCE_FLOOR = 1e-12;
const DAMPING = 3;
const REACH = 300;

// Mean and standard deviation, standardised.
export type Belief = readonly [mean: number, std: number];

export class Process {
  private readonly n: number;
  // The points, divided by the lengthscales; L of the covariance; and a = K^-1 (y - H b).
  private readonly z: Float64Array[];
  // Their rows of the trend's basis, times the root of its variance.
  private readonly rows: Float64Array[];
  private readonly factor: Float64Array[];
  private readonly a: Float64Array;
  private readonly scales: Float64Array;

  // `features` are those of the process' trials; `owner` names the parameter of each feature by its index.
  constructor(
    readonly data: ProcessData,
    private readonly kernel: SurrogateData["kernel"],
    features: readonly Float64Array[],
    owner: readonly number[],
  ) {
    this.n = features.length;
    this.scales = Float64Array.from(owner, (i) => data.lengthscales[i] ?? NaN);
    this.z = features.map((point) => this.scaled(point));
    this.rows = features.map((point) => this.trend(point));
    this.factor = this.factorized();
    const rest = Float64Array.from(features, (point, i) => (data.y[i] ?? NaN) - this.basis(point));
    this.a = this.backward(this.forward(rest));
  }

  predict(features: Float64Array): Belief {
    const k = this.covariances(features);
    const half = this.forward(k);
    const row = this.trend(features);
    const variance = this.data.signal + dot(row, row) - dot(half, half);
    return [this.basis(features) + dot(k, this.a), Math.sqrt(Math.max(VARIANCE_FLOOR, variance))];
  }

  mean(features: Float64Array): number {
    return this.basis(features) + dot(this.covariances(features), this.a);
  }

  private scaled(features: Float64Array): Float64Array {
    return features.map((feature, i) => feature / (this.scales[i] ?? NaN));
  }

  private basis(features: Float64Array): number {
    const { b } = this.data;
    return features.reduce((sum, feature, i) => sum + feature * (b[i + 1] ?? 0), b[0] ?? 0);
  }

  private covariances(features: Float64Array): Float64Array {
    const z = this.scaled(features);
    const row = this.trend(features);
    return Float64Array.from(this.z, (point, i) => this.data.signal * this.correlation(distance(z, point)) + dot(row, this.rows[i]!));
  }

  // Lines and parabolas along the features, of mean 0 on even points; see nbcompress/optimize/trend.py.
  private trend(features: Float64Array): Float64Array {
    const variance = this.data.trend ?? 0;
    const share = Math.sqrt((0.5 * variance) / Math.max(features.length, 1));
    return Float64Array.from({ length: variance > 0 ? 2 * features.length : 0 }, (_, i) => {
      const centred = (features[i % features.length] ?? NaN) - 0.5;
      return share * (i < features.length ? Math.sqrt(12) * centred : Math.sqrt(180) * (centred * centred - 1 / 12));
    });
  }

  private correlation(r2: number): number {
    if (this.kernel === "rbf") {
      return Math.exp(-0.5 * r2);
    }
    const r = SQRT5 * Math.sqrt(r2);
    return (1 + r + (5 / 3) * r2) * Math.exp(-r);
  }

  // Rows of L with L L' = K.
  private factorized(): Float64Array[] {
    const { signal, noise } = this.data;
    const rows: Float64Array[] = [];
    for (let i = 0; i < this.n; i++) {
      const row = new Float64Array(i + 1);
      for (let j = 0; j <= i; j++) {
        const other = rows[j] ?? row;
        let sum = i === j ? signal + noise : signal * this.correlation(distance(this.z[i]!, this.z[j]!));
        sum += dot(this.rows[i]!, this.rows[j]!);
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
  private forward(v: Float64Array): Float64Array {
    const found = new Float64Array(this.n);
    for (let i = 0; i < this.n; i++) {
      const row = this.factor[i]!;
      let sum = v[i]!;
      for (let j = 0; j < i; j++) {
        sum -= row[j]! * found[j]!;
      }
      found[i] = sum / row[i]!;
    }
    return found;
  }

  // L'^-1 v
  private backward(v: Float64Array): Float64Array {
    const found = v.slice();
    for (let i = this.n - 1; i >= 0; i--) {
      const row = this.factor[i]!;
      const value = found[i]! / row[i]!;
      found[i] = value;
      for (let j = 0; j < i; j++) {
        found[j]! -= row[j]! * value;
      }
    }
    return found;
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

// From standardised numbers to the units of the values; damped, values above the knee grow exponentially.
export function restored([mean, std]: Belief, { shift, scale, knee, unit, damped }: OutcomeTransform): Belief {
  const expand = (w: number): number => (damped && w > 0 ? DAMPING * Math.expm1(Math.min(w / DAMPING, REACH)) : w);
  const w = shift + scale * mean;
  const band = scale * std;
  return [knee + unit * expand(w), unit * 0.5 * (expand(w + band) - expand(w - band))];
}

export function standardised(value: number, { shift, scale, knee, unit, damped }: OutcomeTransform): number {
  const w = (value - knee) / unit;
  return ((damped && w > 0 ? DAMPING * Math.log1p(w / DAMPING) : w) - shift) / scale;
}
