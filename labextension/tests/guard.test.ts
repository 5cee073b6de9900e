import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Ajv2020 } from "ajv/dist/2020.js";
import { isField, readStudy } from "../src/data";
import { STUDY_FIELDS } from "../src/schema";
import { NAMES, sample } from "./samples";

const SCHEMA = new URL("../../../nbcompress/panels/schema/study.v1.schema.json", import.meta.url);
const SURROGATE = new URL("../../../tests/samples/surrogate/hypervolume.json", import.meta.url);
const DELETED = Symbol("deleted");
const WRONG = [DELETED, null, -1, 1.5, "text", true, [], {}, [1.5], ["text"], { a: 1.5 }, { a: [] }];

// The schema without `additionalProperties: false`, since readers accept fields that they do not know.
const schema = JSON.parse(readFileSync(SCHEMA, "utf8"), (key, value) => (key === "additionalProperties" && value === false ? undefined : value)) as {
  properties: object;
};
const isValid = new Ajv2020({ strict: false }).compile(schema);

// Yields every place of the data, of lists the first items.
function* places(data: unknown, path: string[] = []): Generator<string[]> {
  if (path.length) {
    yield path;
  }
  if (typeof data === "object" && data !== null) {
    const entries = Object.entries(data);
    for (const [key, value] of Array.isArray(data) ? entries.slice(0, 2) : entries) {
      yield* places(value, [...path, key]);
    }
  }
}

// Returns a copy of the data in which one place holds another value.
function changed(data: unknown, [key, ...rest]: string[], value: unknown): unknown {
  if (key === undefined) {
    return value;
  }
  const copy = (Array.isArray(data) ? [...(data as unknown[])] : { ...(data as object) }) as Record<string, unknown>;
  copy[key] = changed(copy[key], rest, value);
  if (copy[key] === DELETED) {
    delete copy[key];
  }
  // A list must not keep a hole where an item was deleted, since JSON has no holes.
  return Array.isArray(copy) ? copy.flat(0) : copy;
}

const studies = [...NAMES.map(sample), (JSON.parse(readFileSync(SURROGATE, "utf8")) as { study: unknown }).study];

test("the guards accept what the schema accepts, and nothing else", () => {
  let n = 0;
  for (const study of studies) {
    assert.ok(isValid(study) && "study" in readStudy(study));
    for (const place of places(study)) {
      for (const value of WRONG) {
        const data = changed(study, place, value);
        assert.equal("study" in readStudy(data), isValid(data), `${place.join(".")}: ${String(JSON.stringify(value))}`);
        n += 1;
      }
    }
  }
  assert.ok(n > 3000, String(n));
});

test("there is a guard for each field, and for no other", () => {
  assert.deepEqual(Object.keys(STUDY_FIELDS), Object.keys(schema.properties));
  assert.ok(!isField("unknown", 1));
  assert.ok(!isField("toString", 1));
});
