import assert from "node:assert/strict";
import { test } from "node:test";
import { readStudy } from "../src/data";
import { NAMES, sample } from "./samples";

test("every sample is read", () => {
  assert.ok(NAMES.length >= 5);
  for (const name of NAMES) {
    assert.ok("study" in readStudy(sample(name)), name);
  }
});

test("a newer version is refused with a sentence", () => {
  const reading = readStudy({ ...sample("digits"), version: 2 });
  assert.deepEqual(reading, { refusal: "This study was saved by a newer nbcompress (data version 2; this viewer reads 1)." });
});

test("data without a study are refused", () => {
  for (const data of [null, undefined, 3, "text", [], {}, { version: "1" }]) {
    assert.ok("refusal" in readStudy(data));
  }
});

test("fields that older data lack and newer data add are no damage", () => {
  const { calibration, ...older } = sample("digits");
  assert.ok(calibration);
  assert.ok("study" in readStudy(older));
  assert.ok("study" in readStudy({ ...older, calibration: null, unheardOf: 1 }));
  assert.ok("refusal" in readStudy({ ...older, calibration: { metric: 1 } }));
});

test("a damaged field is named", () => {
  for (const [field, value] of [
    ["trials", [{ number: 1 }]],
    ["goal", {}],
    ["front", "all"],
    ["slices", [{}]],
    ["progress", 3],
  ] as const) {
    assert.deepEqual(readStudy({ ...sample("digits"), [field]: value }), {
      refusal: `This study cannot be drawn: its field "${field}" is damaged.`,
    });
  }
});
