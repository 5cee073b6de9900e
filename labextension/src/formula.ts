// The acquisition functions of nbcompress/optimize in closed form; logarithms except for `ucb`.

import type { SurrogateData } from "./data";
import { logCdf, logExpectedImprovement } from "./normal";
import type { Process } from "./process";

const BOUND_WIDTH = 2;
const PI_MARGIN = 0.01;
// Distance of the reference point behind the worst known loss, and the width below which a strip is left out.
const REFERENCE_MARGIN = 0.1;
const THIN = 1e-12;

type Pair = readonly [number, number];

export class AcquisitionFormula {
  readonly #strips: { low: number; high: number; c: number }[] = [];
  #best = Infinity;

  // Returns null if there is no point to improve on, or if only Python can compute the acquisition.
  static of(name: SurrogateData["acquisition"], processes: readonly Process[], known: readonly Float64Array[]): AcquisitionFormula | null {
    return name === null || !known.length ? null : new AcquisitionFormula(name, processes, known);
  }

  // `known`: the features of the points to improve on, which count with their predicted losses.
  private constructor(
    private readonly name: NonNullable<SurrogateData["acquisition"]>,
    private readonly processes: readonly Process[],
    known: readonly Float64Array[],
  ) {
    const losses = known.map((features) => processes.map((process) => process.mean(features)));
    if (name === "hypervolume") {
      this.#strips = strips(losses.map(([first = NaN, second = NaN]) => [first, second] as const));
    } else {
      this.#best = Math.min(...losses.map((loss) => loss[0] ?? Infinity));
    }
  }

  at(features: Float64Array): number {
    const [[mean, std] = [NaN, NaN], second] = this.processes.map((process) => process.predict(features));
    switch (this.name) {
      case "logei":
        return logExpectedImprovement(mean, std, this.#best);
      case "pi":
        return logCdf((this.#best - PI_MARGIN - mean) / std);
      case "ucb":
        return BOUND_WIDTH * std - mean;
      case "hypervolume":
        return this.#volume(mean, std, ...(second ?? [NaN, NaN]));
    }
  }

  // log of the sum over strips (low, high) x (-inf, c) of (psi(high) - psi(low)) psi(c).
  #volume(mean: number, std: number, otherMean: number, otherStd: number): number {
    const parts = this.#strips.map(({ low, high, c }) => {
      const upper = logExpectedImprovement(mean, std, high);
      const share = low === -Infinity ? 0 : Math.exp(Math.min(logExpectedImprovement(mean, std, low) - upper, -1e-15));
      return upper + Math.log1p(-share) + logExpectedImprovement(otherMean, otherStd, c);
    });
    const largest = Math.max(...parts);
    return largest + Math.log(parts.reduce((sum, part) => sum + Math.exp(part - largest), 0));
  }
}

// Splits the region that no known point dominates into strips along the first loss.
function strips(losses: readonly Pair[]): { low: number; high: number; c: number }[] {
  const reference = ([0, 1] as const).map((j) => {
    const column = losses.map((pair) => pair[j]);
    const worst = Math.max(...column);
    const extent = worst - Math.min(...column);
    return worst + REFERENCE_MARGIN * (extent > 0 ? extent : 1);
  }) as [number, number];
  const isBeaten = (pair: Pair): boolean => losses.some((by) => by[0] <= pair[0] && by[1] <= pair[1] && (by[0] < pair[0] || by[1] < pair[1]));
  const front = losses.filter((pair) => !isBeaten(pair)).sort((a, b) => a[0] - b[0]);
  const a = [-Infinity, ...front.map((pair) => pair[0]), reference[0]];
  const c = [reference[1], ...front.map((pair) => pair[1])];
  const extent = Math.max(1, ...a.slice(1).map(Math.abs));
  return c.map((height, k) => ({ low: a[k] ?? NaN, high: a[k + 1] ?? NaN, c: height })).filter(({ low, high }) => high - low > THIN * extent);
}
