// The surrogate of a study, evaluated on the page: predictions, chances and the acquisition at any point.

import type { Parameter, ProcessData, Slice, SliceMetric, Study, SurrogateData } from "./data";
import { Gain } from "./gain";
import { logBelow, WIDTH_95 } from "./normal";
import { Process, restored, standardised, type Belief } from "./process";
import { completed, countOf, fromUnit, placesOf, toUnit, type Point } from "./space";

// The part of a circle that a conditional number runs along; see nbcompress/optimize/embedding.py.
const ANGLE = Math.PI / 2;
const MOST_PLACES = 41;

// What is expected of one metric: mean and the ends of the 95 % interval.
export interface Prediction {
  metric: string;
  mean: number;
  low: number;
  high: number;
}

export class Surrogate {
  private static readonly known = new WeakMap<SurrogateData, Surrogate>();
  readonly metrics: string[];
  private readonly objectives: Process[];
  private readonly limits: Process[];
  private readonly gain: Gain | null;

  // Returns the surrogate that a study's data hold, or null. Worked out once for the same data.
  static of(study: Study): Surrogate | null {
    const data = study.surrogate;
    const trials = new Map(study.trials.map((trial) => [trial.number, trial.params]));
    if (!data || !data.processes.every((process) => process.trials.every((number) => trials.has(number)))) {
      return null;
    }
    const found = Surrogate.known.get(data) ?? new Surrogate(data, study.parameters, trials);
    Surrogate.known.set(data, found);
    return found;
  }

  private constructor(
    private readonly data: SurrogateData,
    private readonly parameters: readonly Parameter[],
    trials: ReadonlyMap<number, Point>,
  ) {
    const features = new Map([...trials].map(([number, point]) => [number, this.features(point)]));
    const of = (numbers: readonly number[]): Float64Array[] => numbers.map((number) => features.get(number)!);
    const owner = parameters.flatMap((parameter, i) => new Array<number>(widthOf(parameter)).fill(i));
    const made = data.processes.map((process) => new Process(process, data.kernel, of(process.trials), owner));
    this.objectives = made.filter((process) => process.data.role === "objective");
    this.limits = made.filter((process) => process.data.role !== "objective");
    this.metrics = [...new Set(made.flatMap((process) => process.data.metric ?? []))];
    this.gain = Gain.of(data.acquisition, this.objectives, of([...data.feasible, ...data.pending]));
  }

  // What is expected of each metric. One that is an objective and bounded is told by the objective's process.
  predict(point: Point): Prediction[] {
    const features = this.features(point);
    return this.metrics.map((metric) => this.predictOne(metric, features));
  }

  predictOne(metric: string, at: Float64Array): Prediction {
    const process = [...this.objectives, ...this.limits].find((known) => known.data.metric === metric)!;
    const { sign, offset, units } = process.data;
    const [loss, std] = restored(process.predict(at), units);
    const mean = offset + sign * loss;
    return { metric, mean, low: mean - WIDTH_95 * std, high: mean + WIDTH_95 * std };
  }

  mean(metric: string, point: Point): number {
    const process = [...this.objectives, ...this.limits].find((known) => known.data.metric === metric)!;
    const { sign, offset, units } = process.data;
    return offset + sign * restored([process.mean(this.features(point)), 0], units)[0];
  }

  // How likely a trial there keeps every constraint and does not fail; null where nothing limits it.
  chance(point: Point): number | null {
    return this.limits.length ? Math.exp(this.logChance(this.features(point))) : null;
  }

  get hasAcquisition(): boolean {
    return this.data.acquisition !== null;
  }

  // The acquisition, larger being better; a logarithm, but for `ucb`. Before any trial is feasible, the chance that one is.
  acquisition(point: Point): number {
    const features = this.features(point);
    return (this.gain?.at(features) ?? 0) + this.logChance(features);
  }

  // The surrogate along one parameter through a point.
  slice(through: Point, name: string): Slice {
    const parameter = this.parameters.find((known) => known.name === name)!;
    const values = placesOf(parameter, MOST_PLACES).map((u) => fromUnit(parameter, u));
    const points = values.map((value) => completed(this.parameters, { ...through, [name]: value }));
    const metrics = this.metrics.map((metric): SliceMetric => {
      const found = points.map((point) => this.predictOne(metric, this.features(point)));
      return { metric, mean: found.map((prediction) => prediction.mean), low: found.map((prediction) => prediction.low), high: found.map((prediction) => prediction.high) };
    });
    const acquisition = this.hasAcquisition ? points.map((point) => this.acquisition(point)) : [];
    const best = acquisition.reduce((at, value, i) => (value > (acquisition[at] ?? -Infinity) ? i : at), 0);
    return { parameter: name, values, metrics, acquisition, at: through[name] ?? null, next: acquisition.length ? (values[best] ?? null) : null };
  }

  private logChance(features: Float64Array): number {
    return this.limits.reduce((sum, process) => sum + logChanceOf(process.predict(features), process.data), 0);
  }

  private features(point: Point): Float64Array {
    return Float64Array.from(this.parameters.flatMap((parameter) => featuresOf(parameter, point)));
  }
}

function logChanceOf([mean, std]: Belief, data: ProcessData): number {
  return logBelow((standardised(0, data.units) - mean) / std);
}

const isOrdered = (parameter: Parameter): boolean => parameter.kind !== "choice" || Boolean(parameter.ordered);

function widthOf(parameter: Parameter): number {
  return isOrdered(parameter) ? (parameter.when ? 2 : 1) : (countOf(parameter) ?? 0);
}

function featuresOf(parameter: Parameter, point: Point): number[] {
  const value = point[parameter.name];
  const width = widthOf(parameter);
  if (value === undefined) {
    return new Array<number>(width).fill(0);
  }
  const u = toUnit(parameter, value);
  if (!isOrdered(parameter)) {
    const chosen = Math.round(u * (width - 1));
    return Array.from({ length: width }, (_, i) => (i === chosen ? Math.SQRT1_2 : 0));
  }
  return parameter.when ? [Math.sin(ANGLE * u) / ANGLE, Math.cos(ANGLE * u) / ANGLE] : [u];
}
