// The surrogate of a study, evaluated on the page: predictions, feasibility and acquisition at any point.

import type { Parameter, ProcessData, Scalar, Slice, SliceMetric, Study, SurrogateData, Trial } from "./data";
import { AcquisitionFormula } from "./formula";
import { logCdf, WIDTH_95 } from "./normal";
import { Process, untransform, standardize, type Posterior } from "./process";
import { completePoint, countValues, fromUnit, gridOf, toUnit, type Point } from "./space";

// A conditional number runs along an arc of this angle; see nbcompress/optimize/encoding.py.
const ARC_ANGLE = Math.PI / 2;
const MAX_GRID = 41;

// The prediction of one metric: mean and ends of the 95 % interval.
export interface Prediction {
  metric: string;
  mean: number;
  low: number;
  high: number;
}

// What slices that Python computed say: one parameter moves, and all others stay as in one trial.
export class SlicedPredictions {
  // Returns the predictions by the slices of a study; null without slices, or if their trial is not known.
  static of(study: Study): SlicedPredictions | null {
    const passes = (trial: Trial): boolean => study.slices.every((slice) => trial.params[slice.parameter] === slice.at);
    const through = study.trials.find((trial) => trial.number === study.best && passes(trial)) ?? study.trials.find(passes);
    return study.slices.length && through ? new SlicedPredictions(study, through) : null;
  }

  readonly #study: Study;
  readonly through: Trial;

  private constructor(study: Study, through: Trial) {
    this.#study = study;
    this.through = through;
  }

  has(name: string): boolean {
    return this.#study.slices.some((slice) => slice.parameter === name);
  }

  // Returns the point with one parameter at the value of its slice that is nearest; null moves none.
  point(name: string | null, value: Scalar | undefined): Point {
    const slice = this.#study.slices.find((known) => known.parameter === name);
    const moved = slice && value !== undefined ? { [slice.parameter]: slice.values[this.#nearest(slice, value)] ?? slice.at } : {};
    return completePoint(this.#study.parameters, { ...this.through.params, ...moved });
  }

  // Predicts each objective at a point of the slice along `name`; null takes the first slice.
  predict(point: Point, name: string | null): Prediction[] {
    const slice = this.#study.slices.find((known) => known.parameter === name) ?? this.#study.slices[0];
    const i = slice ? this.#nearest(slice, point[slice.parameter] ?? slice.at) : 0;
    return (slice?.metrics ?? []).flatMap(({ metric, mean, low, high }) => {
      const [center, from, to] = [mean[i], low[i], high[i]];
      return typeof center === "number" && typeof from === "number" && typeof to === "number" ? [{ metric, mean: center, low: from, high: to }] : [];
    });
  }

  #nearest(slice: Slice, value: Scalar): number {
    const parameter = this.#study.parameters.find((known) => known.name === slice.parameter);
    const u = parameter ? toUnit(parameter, value) : 0;
    const distances = slice.values.map((known) => (parameter ? Math.abs(toUnit(parameter, known) - u) : 0));
    return Math.max(0, distances.indexOf(Math.min(...distances)));
  }
}

// Returns whether the processes are of trials that are known, and have a value and a lengthscale for each.
function isWhole({ processes, feasible, pending }: SurrogateData, nParameters: number, trials: ReadonlyMap<number, Point>): boolean {
  const isKnown = (number: number): boolean => trials.has(number);
  return (
    [feasible, pending, ...processes.map((process) => process.trials)].every((numbers) => numbers.every(isKnown)) &&
    processes.every(({ trials: fitted, y, lengthscales }) => y.length === fitted.length && lengthscales.length === nParameters)
  );
}

export class Surrogate {
  static readonly #known = new WeakMap<SurrogateData, Surrogate>();
  readonly metrics: string[];
  readonly #objectives: Process[];
  readonly #limits: Process[];
  readonly #gain: AcquisitionFormula | null;

  // Returns the surrogate in the data of a study, or null without one or if the data contradict themselves. It is
  // computed once for the same data.
  static of(study: Study): Surrogate | null {
    const data = study.surrogate;
    const trials = new Map(study.trials.map((trial) => [trial.number, trial.params]));
    if (!data || !isWhole(data, study.parameters.length, trials)) {
      return null;
    }
    const surrogate = Surrogate.#known.get(data) ?? new Surrogate(data, study.parameters, trials);
    Surrogate.#known.set(data, surrogate);
    return surrogate;
  }

  private constructor(
    private readonly data: SurrogateData,
    private readonly parameters: readonly Parameter[],
    trials: ReadonlyMap<number, Point>,
  ) {
    const features = new Map([...trials].map(([number, point]) => [number, this.#features(point)]));
    const of = (numbers: readonly number[]): Float64Array[] => numbers.map((number) => features.get(number)!);
    const owner = parameters.flatMap((parameter, i) => new Array<number>(countFeatures(parameter)).fill(i));
    const processes = data.processes.map((process) => new Process(process, data.kernel, of(process.trials), owner));
    this.#objectives = processes.filter((process) => process.data.role === "objective");
    this.#limits = processes.filter((process) => process.data.role !== "objective");
    this.metrics = [...new Set(processes.flatMap((process) => process.data.metric ?? []))];
    this.#gain = AcquisitionFormula.of(data.acquisition, this.#objectives, of([...data.feasible, ...data.pending]));
  }

  // Predicts each metric. A metric that is both an objective and bounded is predicted by the objective's process.
  predict(point: Point): Prediction[] {
    const features = this.#features(point);
    return this.metrics.map((metric) => this.predictMetric(metric, features));
  }

  predictMetric(metric: string, at: Float64Array): Prediction {
    const process = [...this.#objectives, ...this.#limits].find((known) => known.data.metric === metric)!;
    const { sign, offset, units } = process.data;
    const [loss, std] = untransform(process.predict(at), units);
    const mean = offset + sign * loss;
    return { metric, mean, low: mean - WIDTH_95 * std, high: mean + WIDTH_95 * std };
  }

  mean(metric: string, point: Point): number {
    const process = [...this.#objectives, ...this.#limits].find((known) => known.data.metric === metric)!;
    const { sign, offset, units } = process.data;
    return offset + sign * untransform([process.mean(this.#features(point)), 0], units)[0];
  }

  // Returns the probability that a trial meets every constraint and does not fail; null if there is nothing to meet.
  feasibility(point: Point): number | null {
    return this.#limits.length ? Math.exp(this.#logFeasibility(this.#features(point))) : null;
  }

  get hasAcquisition(): boolean {
    return this.data.acquisition !== null;
  }

  // The acquisition; larger is better. It is a logarithm except for `ucb`; before any feasible trial, the feasibility.
  acquisition(point: Point): number {
    const features = this.#features(point);
    return (this.#gain?.at(features) ?? 0) + this.#logFeasibility(features);
  }

  // Returns predictions and acquisition along one parameter through a point.
  slice(through: Point, name: string): Slice {
    const parameter = this.parameters.find((known) => known.name === name)!;
    const values = gridOf(parameter, MAX_GRID).map((u) => fromUnit(parameter, u));
    const points = values.map((value) => completePoint(this.parameters, { ...through, [name]: value }));
    const metrics = this.metrics.map((metric): SliceMetric => {
      const surrogate = points.map((point) => this.predictMetric(metric, this.#features(point)));
      return {
        metric,
        mean: surrogate.map((prediction) => prediction.mean),
        low: surrogate.map((prediction) => prediction.low),
        high: surrogate.map((prediction) => prediction.high),
      };
    });
    const acquisition = this.hasAcquisition ? points.map((point) => this.acquisition(point)) : [];
    const best = acquisition.reduce((at, value, i) => (value > (acquisition[at] ?? -Infinity) ? i : at), 0);
    return { parameter: name, values, metrics, acquisition, at: through[name] ?? null, next: acquisition.length ? (values[best] ?? null) : null };
  }

  #logFeasibility(features: Float64Array): number {
    return this.#limits.reduce((sum, process) => sum + logProbability(process.predict(features), process.data), 0);
  }

  #features(point: Point): Float64Array {
    return Float64Array.from(this.parameters.flatMap((parameter) => featuresOf(parameter, point)));
  }
}

function logProbability([mean, std]: Posterior, data: ProcessData): number {
  return logCdf((standardize(0, data.units) - mean) / std);
}

const isOrdered = (parameter: Parameter): boolean => parameter.kind !== "choice" || Boolean(parameter.ordered);

function countFeatures(parameter: Parameter): number {
  return isOrdered(parameter) ? (parameter.when ? 2 : 1) : (countValues(parameter) ?? 0);
}

function featuresOf(parameter: Parameter, point: Point): number[] {
  const value = point[parameter.name];
  const width = countFeatures(parameter);
  if (value === undefined) {
    return new Array<number>(width).fill(0);
  }
  const u = toUnit(parameter, value);
  if (!isOrdered(parameter)) {
    const chosen = Math.round(u * (width - 1));
    return Array.from({ length: width }, (_, i) => (i === chosen ? Math.SQRT1_2 : 0));
  }
  return parameter.when ? [Math.sin(ARC_ANGLE * u) / ARC_ANGLE, Math.cos(ARC_ANGLE * u) / ARC_ANGLE] : [u];
}
