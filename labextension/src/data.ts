// A study as plain data: the types of nbcompress/panels/schema/study.v1.schema.json, and the guard at the door.

export const VERSION = 1;
export const MIME = "application/vnd.nbcompress.study.v1+json";

export const STATES = ["complete", "stopped", "infeasible", "failed", "interrupted", "running"] as const;
export type State = (typeof STATES)[number];
export type Scalar = string | number | boolean | null;
export type Maybe = number | null;

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
  step?: Maybe;
  options?: Scalar[];
  ordered?: boolean;
  when?: Record<string, Scalar[]>[];
}
export interface Failure {
  kind: string;
  message: string;
  traceback: string;
}
export interface Trial {
  number: number;
  state: State;
  params: Record<string, Scalar>;
  metrics: Record<string, Maybe>;
  seconds: Maybe;
  failure?: Failure;
  printed?: string;
  reason?: string;
}
export interface SliceMetric {
  metric: string;
  mean: Maybe[];
  low: Maybe[];
  high: Maybe[];
}
export interface Slice {
  parameter: string;
  values: Scalar[];
  metrics: SliceMetric[];
  acquisition: Maybe[];
  at: Scalar;
  next: Scalar;
}
export interface Calibration {
  metric: string;
  residuals: Maybe[];
  inside: number;
  sentence: string;
}
export interface Units {
  shift: number;
  scale: number;
  knee: number;
  unit: number;
  damped: boolean;
}
export interface ProcessData {
  role: "objective" | "constraint" | "failure";
  metric: string | null;
  sign: number;
  offset: number;
  trials: number[];
  y: number[];
  b: number[];
  lengthscales: number[];
  signal: number;
  noise: number;
  // The variance of lines and parabolas along single features, 0 without them; studies of before have none.
  trend?: number;
  units: Units;
}
export interface SurrogateData {
  kernel: "matern52" | "rbf";
  acquisition: "logei" | "ucb" | "pi" | "hypervolume" | null;
  feasible: number[];
  pending: number[];
  processes: ProcessData[];
}
export interface Study {
  version: typeof VERSION;
  name: string;
  state: "running" | "ended";
  ending: string | null;
  goal: { objectives: Objective[]; constraints: Constraint[] };
  parameters: Parameter[];
  metrics: string[];
  budget: { trials: Maybe; seconds: Maybe };
  elapsed: Maybe;
  left: Maybe;
  // Of the study, which may have more trials than are here; studies of before have none.
  counts?: Partial<Record<State, number>>;
  trials: Trial[];
  front: number[];
  best: Maybe;
  progress: { label: string; values: Maybe[] } | null;
  baseline: Record<string, Maybe> | null;
  slices: Slice[];
  importance: Record<string, Maybe> | null;
  calibration?: Calibration | null;
  surrogate?: SurrogateData | null;
  narrowed?: Record<string, Scalar[]>;
  record: Record<string, unknown>;
  warnings: string[];
  cut: string | null;
}

// How many trials of a study are in a state.
export function trialsIn(study: Study, state: State): number {
  return study.counts ? (study.counts[state] ?? 0) : study.trials.filter((one) => one.state === state).length;
}

export type Reading = { study: Study } | { refusal: string };

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isTrial(value: unknown): value is Trial {
  return (
    isObject(value) &&
    Number.isInteger(value["number"]) &&
    STATES.includes(value["state"] as State) &&
    isObject(value["params"]) &&
    isObject(value["metrics"]) &&
    (value["failure"] === undefined || isFailure(value["failure"]))
  );
}

function isFailure(value: unknown): value is Failure {
  return isObject(value) && ["kind", "message", "traceback"].every((key) => typeof value[key] === "string");
}

function isSlice(value: unknown): value is Slice {
  return (
    isObject(value) &&
    typeof value["parameter"] === "string" &&
    Array.isArray(value["values"]) &&
    Array.isArray(value["acquisition"]) &&
    isListOf(value["metrics"], (one) => isObject(one) && ["mean", "low", "high"].every((key) => Array.isArray(one[key])))
  );
}

function isListOf(value: unknown, holds: (one: unknown) => boolean): boolean {
  return Array.isArray(value) && value.every(holds);
}

const isText = (value: unknown): boolean => typeof value === "string";
const isNumber = (value: unknown): boolean => typeof value === "number";
const orNull = (holds: (one: unknown) => boolean) => (value: unknown) => value === null || holds(value);

function isGoal(value: unknown): boolean {
  return (
    isObject(value) &&
    isListOf(value["objectives"], (one) => isObject(one) && isText(one["metric"])) &&
    (value["objectives"] as unknown[]).length > 0 &&
    isListOf(value["constraints"], (one) => isObject(one) && isText(one["metric"]) && isNumber(one["bound"]))
  );
}

function isCalibration(value: unknown): boolean {
  return isObject(value) && isText(value["metric"]) && isText(value["sentence"]) && isListOf(value["residuals"], orNull(isNumber));
}

function isProcess(value: unknown): boolean {
  return (
    isObject(value) &&
    ["objective", "constraint", "failure"].includes(value["role"] as string) &&
    orNull(isText)(value["metric"]) &&
    ["trials", "y", "b", "lengthscales"].every((key) => isListOf(value[key], isNumber)) &&
    ["sign", "offset", "signal", "noise"].every((key) => isNumber(value[key])) &&
    isNumber(value["trend"] ?? 0) &&
    isObject(value["units"])
  );
}

function isSurrogate(value: unknown): boolean {
  return (
    isObject(value) &&
    ["matern52", "rbf"].includes(value["kernel"] as string) &&
    ["logei", "ucb", "pi", "hypervolume", null].includes(value["acquisition"] as string | null) &&
    ["feasible", "pending"].every((key) => isListOf(value[key], isNumber)) &&
    isListOf(value["processes"], isProcess)
  );
}

function isParameter(value: unknown): boolean {
  return (
    isObject(value) &&
    isText(value["name"]) &&
    (value["options"] === undefined || Array.isArray(value["options"])) &&
    (value["when"] === undefined || isListOf(value["when"], (one) => isObject(one) && Object.values(one).every(Array.isArray)))
  );
}

const FIELDS: [keyof Study, (value: unknown) => boolean][] = [
  ["name", isText],
  ["state", (value) => value === "running" || value === "ended"],
  ["ending", orNull(isText)],
  ["goal", isGoal],
  ["parameters", (value) => isListOf(value, isParameter)],
  ["metrics", (value) => isListOf(value, isText)],
  ["budget", isObject],
  ["elapsed", orNull(isNumber)],
  ["left", orNull(isNumber)],
  ["counts", (value) => value === undefined || (isObject(value) && Object.values(value).every(isNumber))],
  ["trials", (value) => isListOf(value, isTrial)],
  ["front", (value) => isListOf(value, isNumber)],
  ["best", orNull(isNumber)],
  ["progress", orNull((value) => isObject(value) && isText(value["label"]) && Array.isArray(value["values"]))],
  ["baseline", orNull(isObject)],
  ["slices", (value) => isListOf(value, isSlice)],
  ["importance", orNull(isObject)],
  ["calibration", (value) => value === undefined || value === null || isCalibration(value)],
  ["surrogate", (value) => value === undefined || value === null || isSurrogate(value)],
  ["narrowed", (value) => value === undefined || (isObject(value) && Object.values(value).every(Array.isArray))],
  ["record", isObject],
  ["warnings", (value) => isListOf(value, isText)],
  ["cut", orNull(isText)],
];

// Says whether a part of a study has the shape that its name promises.
export function isField(key: string, value: unknown): boolean {
  return FIELDS.some(([name, holds]) => name === key && holds(value));
}

// Reads data of any origin: a study, or one sentence on why it cannot be drawn.
export function readStudy(data: unknown): Reading {
  if (!isObject(data)) {
    return { refusal: "This output holds no study that can be drawn." };
  }
  const version = data["version"];
  if (typeof version === "number" && version > VERSION) {
    return { refusal: `This study was saved by a newer nbcompress (data version ${version}; this viewer reads ${VERSION}).` };
  }
  if (version !== VERSION) {
    return { refusal: "This output holds a study of an unknown version." };
  }
  const wrong = FIELDS.find(([key, holds]) => !holds(data[key]));
  if (wrong) {
    return { refusal: `This study cannot be drawn: its field "${wrong[0]}" is damaged.` };
  }
  return { study: data as unknown as Study };
}
