// A study as plain data: types, guards, and a reader for data of any origin.

import { isObject, type Guard } from "./guard";
import { STUDY_FIELDS, type State, type Study } from "./schema";
import { trans } from "./words";

export { isTrial, STATES } from "./schema";
export type {
  Calibration,
  Constraint,
  OutcomeTransform,
  Parameter,
  ProcessData,
  Scalar,
  Slice,
  SliceMetric,
  State,
  Study,
  SurrogateData,
  Trial,
} from "./schema";
export { isObject };

export type Maybe = number | null;

export const VERSION = 1;
export const MIME = "application/vnd.nbcompress.study.v1+json";

// Returns how many trials of a study are in a state; studies of older versions do not hold the counts.
export function countTrials(study: Study, state: State): number {
  return study.counts ? (study.counts[state] ?? 0) : study.trials.filter((trial) => trial.state === state).length;
}

const FIELDS: [string, Guard][] = Object.entries(STUDY_FIELDS);

// Returns whether a value is a valid field of a study.
export function isField(name: string, value: unknown): boolean {
  return FIELDS.some(([field, isValid]) => field === name && isValid(value));
}

export type Reading = { study: Study } | { refusal: string };

// Returns the study that the data hold, or one sentence on why it cannot be drawn.
export function readStudy(data: unknown): Reading {
  if (!isObject(data)) {
    return { refusal: trans.__("This output holds no study that can be drawn.") };
  }
  const version = data["version"];
  if (typeof version === "number" && version > VERSION) {
    return { refusal: trans.__("This study was saved by a newer nbcompress (data version %1; this viewer reads %2).", version, VERSION) };
  }
  if (version !== VERSION) {
    return { refusal: trans.__("This output holds a study of an unknown version.") };
  }
  const damaged = FIELDS.find(([name, isValid]) => !isValid(data[name]));
  if (damaged) {
    return { refusal: trans.__('This study cannot be drawn: its field "%1" is damaged.', damaged[0]) };
  }
  return { study: data as unknown as Study };
}
