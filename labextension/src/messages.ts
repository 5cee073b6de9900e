// The messages between the live panel and Python, with a guard for each.

import { isField, isObject, isTrial, type Maybe, type Study, type Trial } from "./data";

export type Control = "stop" | "pause" | "resume" | "skip" | "next" | "narrow";

// The trait that a new or reloaded page starts from.
export interface PanelState {
  seq: number;
  run: string;
  study: Study;
}

// Python -> page: what changed since message `seq - 1`. Trials replace those with the same number.
export interface Delta {
  kind: "delta";
  seq: number;
  trials: Trial[];
  progress: { label: string; reference?: Record<string, Maybe>; from: number; values: Maybe[] } | null;
  set: Partial<Study>;
}

// Python -> page: the answer to a command.
export interface Ack {
  kind: "ack";
  control: Control | "hello";
  run: string;
  paused: boolean;
  // What happened to a point or to limits.
  note?: string;
}

// Python -> page: the whole state, sent at the start and as the answer to "hello".
export interface FullState {
  kind: "whole";
  state: PanelState;
}

// Page -> Python, on the comm of the controls.
export interface Command {
  kind: "press";
  control: Control | "hello";
  run: string;
  page: string;
  values?: (number | null)[];
  limits?: (number[] | null)[];
}

export function isPanelState(value: unknown): value is PanelState {
  return isObject(value) && typeof value["seq"] === "number" && typeof value["run"] === "string" && isObject(value["study"]);
}

export function isDelta(value: unknown): value is Delta {
  if (!isObject(value) || value["kind"] !== "delta" || typeof value["seq"] !== "number") {
    return false;
  }
  const { trials, progress, set } = value;
  return (
    Array.isArray(trials) &&
    trials.every(isTrial) &&
    (progress === null || (isObject(progress) && typeof progress["from"] === "number" && Array.isArray(progress["values"]))) &&
    isObject(set) &&
    Object.entries(set).every(([key, field]) => isField(key, field))
  );
}

export function isAck(value: unknown): value is Ack {
  return isObject(value) && value["kind"] === "ack" && typeof value["control"] === "string" && typeof value["run"] === "string";
}

export function isFullState(value: unknown): value is FullState {
  return isObject(value) && value["kind"] === "whole" && isPanelState(value["state"]);
}

// Returns whether a message between the state and this delta was missed.
export function isGap(state: PanelState, delta: Delta): boolean {
  return delta.seq > state.seq + 1;
}

// Returns the state after a delta; the same state if the delta is older.
export function applyDelta(state: PanelState, delta: Delta): PanelState {
  if (delta.seq <= state.seq) {
    return state;
  }
  // What did not change stays the same object, so that a view knows what it need not draw again.
  const study: Study = { ...state.study, ...delta.set, trials: mergeTrials(state.study.trials, delta.trials) };
  if (delta.progress) {
    const { from, values, ...head } = delta.progress;
    const before = Array.from({ length: from }, (_, i) => state.study.progress?.values[i] ?? null);
    study.progress = { ...head, values: [...before, ...values] };
  }
  return { ...state, seq: delta.seq, study };
}

function mergeTrials(before: Trial[], changed: readonly Trial[]): Trial[] {
  if (!changed.length) {
    return before;
  }
  const trials = new Map(before.map((trial) => [trial.number, trial]));
  changed.forEach((trial) => trials.set(trial.number, trial));
  return [...trials.values()].sort((a, b) => a.number - b.number);
}
