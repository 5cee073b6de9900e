// The parts that the generated guards in schema.ts are made of: each says whether a value has a shape.

export type Guard = (value: unknown) => boolean;

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export const isString: Guard = (value) => typeof value === "string";
export const isNumber: Guard = (value) => typeof value === "number";
export const isInteger: Guard = (value) => Number.isInteger(value);
export const isBoolean: Guard = (value) => typeof value === "boolean";
export const isNull: Guard = (value) => value === null;

export const isOneOf =
  (values: readonly unknown[]): Guard =>
  (value) =>
    values.includes(value);
export const isEither =
  (...guards: Guard[]): Guard =>
  (value) =>
    guards.some((guard) => guard(value));
export const isOptional =
  (guard: Guard): Guard =>
  (value) =>
    value === undefined || guard(value);
export const isAtLeast =
  (low: number, guard: Guard): Guard =>
  (value) =>
    guard(value) && (value as number) >= low;
export const isListOf =
  (guard: Guard, least = 0): Guard =>
  (value) =>
    Array.isArray(value) && value.length >= least && value.every(guard);
export const isMapOf =
  (guard: Guard): Guard =>
  (value) =>
    isObject(value) && Object.values(value).every(guard);
export const hasFields = (fields: Record<string, Guard>): Guard => {
  const entries = Object.entries(fields);
  return (value) => isObject(value) && entries.every(([name, guard]) => guard(value[name]));
};
