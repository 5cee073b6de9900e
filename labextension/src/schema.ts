// Generated from nbcompress/panels/schema/study.v1.schema.json by generate.mjs: run `npm run generate`, do not edit.
// A guard accepts fields that the schema does not know, since newer versions of the package may add some.

import { hasFields, isAtLeast, isBoolean, isEither, isInteger, isListOf, isMapOf, isNull, isNumber, isObject, isOneOf, isOptional, isString } from "./guard";

export type Scalar = string | number | boolean | null;
/**
 * How a trial ended, in the order in which counts are shown.
 */
export type State = "complete" | "stopped" | "infeasible" | "failed" | "interrupted" | "running";
export type Series = (number | null)[];
/**
 * (measured - predicted) / standard deviation.
 */
export type Series1 = (number | null)[];
export type Kernel = "matern52" | "rbf" | "matern32" | "matern12";
/**
 * The formula that a page may use; null if the acquisition is computed in Python only.
 */
export type Acquisition = "logei" | "ucb" | "pi" | "hypervolume" | null;

/**
 * What the live panel and the viewer of saved notebooks draw. Numbers are finite, and an unknown number is null. A parameter that was inactive in a trial is absent from its params. A reader ignores fields that it does not know; labextension/src/schema.ts is generated from this file.
 */
export interface Study {
  version: 1;
  name: string;
  state: "running" | "ended";
  /**
   * One sentence on how the search ended.
   */
  ending: string | null;
  goal: Goal;
  parameters: Parameter[];
  /**
   * Names of the metrics in the order of columns; those of the goal come first.
   */
  metrics: string[];
  budget: Budget;
  /**
   * Seconds that the search has taken.
   */
  elapsed: number | null;
  /**
   * Estimate of the seconds until the search ends.
   */
  left: number | null;
  /**
   * Number of trials in each state, of the whole study, also if the data hold a part of it. Older data lack it.
   */
  counts?: {
    [k: string]: number;
  };
  trials: Trial[];
  /**
   * Names of the values that trials keep, by number. Older data lack it.
   */
  kept?: {
    [k: string]: string[];
  };
  /**
   * Numbers of the Pareto-optimal trials, the best one in the first objective first.
   */
  front: number[];
  best: number | null;
  progress: null | Progress;
  baseline: null | Numbers;
  /**
   * What was measured once on data that no trial saw, as texts: the original first, then the front.
   */
  test?: {
    columns: string[];
    rows: string[][];
  };
  slices: Slice[];
  importance: null | Numbers;
  calibration?: null | Calibration;
  /**
   * With several objectives: importance and calibration for each. Absent with one objective, and in older data; `importance` and `calibration` are those of the first objective.
   */
  insights?: Insight[];
  surrogate?: null | SurrogateData;
  /**
   * The limits within which the search goes on, by parameter: the lowest and the highest value, or the remaining options. Absent if the search cannot be narrowed.
   */
  narrowed?: {
    [k: string]: Scalar[];
  };
  /**
   * Record of the experiment: seed, versions, machine, source of the cell, ...
   */
  record: {
    [k: string]: unknown;
  };
  warnings: string[];
  /**
   * A sentence if trials were left out to keep the data small.
   */
  cut: string | null;
}
export interface Goal {
  /**
   * @minItems 1
   */
  objectives: Objective[];
  constraints: Constraint[];
}
export interface Objective {
  metric: string;
  direction: "maximize" | "minimize";
}
export interface Constraint {
  metric: string;
  operator: "<=" | ">=";
  bound: number;
}
export interface Parameter {
  name: string;
  kind: "float" | "int" | "choice";
  low?: number;
  high?: number;
  log?: boolean;
  step?: number | null;
  options?: Scalar[];
  ordered?: boolean;
  /**
   * The parameter is active if one of these cases holds: choices by name, each with the values that it may have. Absent if the parameter is always active.
   */
  when?: {
    [k: string]: Scalar[];
  }[];
}
export interface Budget {
  trials: number | null;
  seconds: number | null;
}
export interface Trial {
  number: number;
  state: State;
  params: {
    [k: string]: Scalar;
  };
  metrics: Numbers;
  seconds: number | null;
  started?: number;
  ended?: number;
  worker?: string;
  failure?: Failure;
  printed?: string;
  reason?: string;
  reports?: {
    [k: string]: Series[];
  };
}
export interface Numbers {
  [k: string]: number | null;
}
export interface Failure {
  kind: string;
  message: string;
  traceback: string;
}
/**
 * Best value or hypervolume after each trial, aligned with trials; null before the first feasible trial.
 */
export interface Progress {
  label: string;
  values: Series;
  reference?: Numbers1;
}
/**
 * The point from which the hypervolume is measured. Absent for a best value, and in older data.
 */
export interface Numbers1 {
  [k: string]: number | null;
}
/**
 * Predictions and acquisition along one parameter through a point.
 */
export interface Slice {
  parameter: string;
  values: Scalar[];
  metrics: SliceMetric[];
  acquisition: Series;
  /**
   * The value of the parameter in the point.
   */
  at: string | number | boolean | null;
  /**
   * The value with the largest acquisition.
   */
  next: string | number | boolean | null;
}
export interface SliceMetric {
  metric: string;
  mean: Series;
  low: Series;
  high: Series;
}
/**
 * How well each trial is predicted from all the others. Older data lack it.
 */
export interface Calibration {
  metric: string;
  residuals: Series1;
  /**
   * Share of residuals within the 95 % interval.
   */
  inside: number;
  sentence: string;
}
export interface Insight {
  metric: string;
  importance: Numbers2;
  calibration: null | Calibration;
}
/**
 * The share of each parameter in the variance of this objective.
 */
export interface Numbers2 {
  [k: string]: number | null;
}
/**
 * The fitted processes, with which a page predicts by itself. Older data lack it.
 */
export interface SurrogateData {
  kernel: Kernel;
  acquisition: Acquisition;
  /**
   * Numbers of the trials that met every constraint.
   */
  feasible: number[];
  /**
   * Numbers of the trials that were running; they come last in every process.
   */
  pending: number[];
  /**
   * @minItems 1
   */
  processes: ProcessData[];
}
/**
 * A Gaussian process of standardised values. A metric is offset + sign * untransformed value.
 */
export interface ProcessData {
  role: "objective" | "constraint" | "failure";
  metric: string | null;
  sign: 1 | -1;
  offset: number;
  /**
   * Numbers of the trials that the process was fitted to.
   */
  trials: number[];
  /**
   * Standardised values of these trials; smaller is better.
   */
  y: number[];
  /**
   * Coefficients of the mean: none, a constant, or a constant and one for each feature.
   */
  b: number[];
  /**
   * One for each parameter.
   */
  lengthscales: number[];
  signal: number;
  noise: number;
  /**
   * Noise variances of the values, in the place of one noise. Older data lack it.
   */
  noises?: number[];
  /**
   * Of the process of failure: a trial succeeds with probability (1 - chance) Phi(-3 mean). Older data lack it, where a trial succeeds if the process is at most 0.
   */
  chance?: number;
  /**
   * Variance of lines and parabolas along single features, 0 without them. Older data lack it.
   */
  trend?: number;
  units: OutcomeTransform;
}
/**
 * value = knee + unit * expand(shift + scale * y), where expand is the identity unless damped.
 */
export interface OutcomeTransform {
  shift: number;
  scale: number;
  knee: number;
  unit: number;
  damped: boolean;
}

export const isScalar = isEither(isString, isNumber, isBoolean, isNull);

export const isNumbers = isMapOf(isEither(isNumber, isNull));

export const isSeries = isListOf(isEither(isNumber, isNull));

export const STATES = ["complete","stopped","infeasible","failed","interrupted","running"] as const;
export const isState = isOneOf(STATES);

export const isObjective = hasFields({
  metric: isString,
  direction: isOneOf(["maximize","minimize"]),
});

export const isConstraint = hasFields({
  metric: isString,
  operator: isOneOf(["<=",">="]),
  bound: isNumber,
});

export const isGoal = hasFields({
  objectives: isListOf(isObjective, 1),
  constraints: isListOf(isConstraint),
});

export const isBudget = hasFields({
  trials: isEither(isInteger, isNull),
  seconds: isEither(isNumber, isNull),
});

export const isProgress = hasFields({
  label: isString,
  values: isSeries,
  reference: isOptional(isNumbers),
});

export const isCalibration = hasFields({
  metric: isString,
  residuals: isSeries,
  inside: isNumber,
  sentence: isString,
});

export const isInsight = hasFields({
  metric: isString,
  importance: isNumbers,
  calibration: isEither(isNull, isCalibration),
});

export const isParameter = hasFields({
  name: isString,
  kind: isOneOf(["float","int","choice"]),
  low: isOptional(isNumber),
  high: isOptional(isNumber),
  log: isOptional(isBoolean),
  step: isOptional(isEither(isNumber, isNull)),
  options: isOptional(isListOf(isScalar)),
  ordered: isOptional(isBoolean),
  when: isOptional(isListOf(isMapOf(isListOf(isScalar)))),
});

export const isFailure = hasFields({
  kind: isString,
  message: isString,
  traceback: isString,
});

export const isTrial = hasFields({
  number: isAtLeast(0, isInteger),
  state: isState,
  params: isMapOf(isScalar),
  metrics: isNumbers,
  seconds: isEither(isNumber, isNull),
  started: isOptional(isNumber),
  ended: isOptional(isNumber),
  worker: isOptional(isString),
  failure: isOptional(isFailure),
  printed: isOptional(isString),
  reason: isOptional(isString),
  reports: isOptional(isMapOf(isListOf(isSeries))),
});

export const KERNELS = ["matern52","rbf","matern32","matern12"] as const;
export const isKernel = isOneOf(KERNELS);

export const ACQUISITIONS = ["logei","ucb","pi","hypervolume",null] as const;
export const isAcquisition = isOneOf(ACQUISITIONS);

export const isOutcomeTransform = hasFields({
  shift: isNumber,
  scale: isNumber,
  knee: isNumber,
  unit: isNumber,
  damped: isBoolean,
});

export const isProcessData = hasFields({
  role: isOneOf(["objective","constraint","failure"]),
  metric: isEither(isString, isNull),
  sign: isOneOf([1,-1]),
  offset: isNumber,
  trials: isListOf(isInteger),
  y: isListOf(isNumber),
  b: isListOf(isNumber),
  lengthscales: isListOf(isNumber),
  signal: isNumber,
  noise: isNumber,
  noises: isOptional(isListOf(isNumber)),
  chance: isOptional(isNumber),
  trend: isOptional(isNumber),
  units: isOutcomeTransform,
});

export const isSurrogateData = hasFields({
  kernel: isKernel,
  acquisition: isAcquisition,
  feasible: isListOf(isInteger),
  pending: isListOf(isInteger),
  processes: isListOf(isProcessData, 1),
});

export const isSliceMetric = hasFields({
  metric: isString,
  mean: isSeries,
  low: isSeries,
  high: isSeries,
});

export const isSlice = hasFields({
  parameter: isString,
  values: isListOf(isScalar),
  metrics: isListOf(isSliceMetric),
  acquisition: isSeries,
  at: isScalar,
  next: isScalar,
});

// The guard of each field of a study.
export const STUDY_FIELDS = {
  version: isOneOf([1]),
  name: isString,
  state: isOneOf(["running","ended"]),
  ending: isEither(isString, isNull),
  goal: isGoal,
  parameters: isListOf(isParameter),
  metrics: isListOf(isString),
  budget: isBudget,
  elapsed: isEither(isNumber, isNull),
  left: isEither(isNumber, isNull),
  counts: isOptional(isMapOf(isAtLeast(0, isInteger))),
  trials: isListOf(isTrial),
  kept: isOptional(isMapOf(isListOf(isString))),
  front: isListOf(isInteger),
  best: isEither(isInteger, isNull),
  progress: isEither(isNull, isProgress),
  baseline: isEither(isNull, isNumbers),
  test: isOptional(hasFields({
  columns: isListOf(isString),
  rows: isListOf(isListOf(isString)),
})),
  slices: isListOf(isSlice),
  importance: isEither(isNull, isNumbers),
  calibration: isOptional(isEither(isNull, isCalibration)),
  insights: isOptional(isListOf(isInsight)),
  surrogate: isOptional(isEither(isNull, isSurrogateData)),
  narrowed: isOptional(isMapOf(isListOf(isScalar))),
  record: isObject,
  warnings: isListOf(isString),
  cut: isEither(isString, isNull),
};
