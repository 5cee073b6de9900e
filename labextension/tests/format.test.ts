import assert from "node:assert/strict";
import { test } from "node:test";
import { cut, duration, goalText, metricsText, spell, spellMetric } from "../src/format";
import { extent, linear, logarithmic, measured, niceStep } from "../src/scales";
import { compare } from "../src/trials";
import { sample } from "./samples";

test("numbers and choices are spelt as in Python", () => {
  const table: [Parameters<typeof spell>[0], string][] = [
    [0.123456, "0.1235"], [12, "12"], [true, "True"], [null, "None"], ["plain", "plain"], [undefined, ""], [1e-5, "0.00001"],
  ];
  for (const [value, text] of table) {
    assert.equal(spell(value), text);
  }
  assert.equal(spellMetric(null), "");
});

test("durations are short", () => {
  assert.deepEqual([null, 0, 0.123, 9.5, 48.2, 200, 7500].map(duration), ["?", "0 s", "0.12 s", "9.5 s", "48 s", "3 min 20 s", "2 h 5 min"]);
});

test("a long text is cut with a mark", () => {
  assert.equal(cut("abcdef", 4), "abc…");
  assert.equal(cut("abcd", 4), "abcd");
});

test("the goal reads as a sentence", () => {
  const study = sample("digits");
  assert.equal(goalText(study.goal), "maximize accuracy, minimize kilobytes, subject to kilobytes <= 60");
  const best = study.trials.find((one) => one.number === study.best);
  assert.match(best ? metricsText(best, study.metrics) : "", /^accuracy 0\.\d+, kilobytes [\d.]+$/);
});

test("scales place the ends of a domain, ticks lie inside", () => {
  const scale = linear([0, 10], [0, 100], { padded: false });
  assert.deepEqual([scale(0), scale(5), scale(10)], [0, 50, 100]);
  assert.deepEqual(scale.ticks.map((one) => one.label), ["0", "2", "4", "6", "8", "10"]);
  const logs = logarithmic([1e-4, 1e-1], [0, 300]);
  assert.ok(Math.abs(logs(1e-3) - 100) < 1e-9);
  assert.deepEqual(logs.ticks.map((one) => one.label), ["1e-4", "0.001", "0.01", "0.1"]);
  assert.equal(niceStep(1, 5), 0.2);
  assert.deepEqual(extent([3, 1, NaN, 2]), [1, 3]);
  assert.equal(extent([]), null);
});

test("values that are wide apart get a logarithmic axis", () => {
  const labels = (values: number[], straight = false) => measured(values, [0, 400], straight).ticks.map((one) => one.label);
  assert.deepEqual(labels([2, 60, 500]), ["3", "10", "30", "100", "300"]);
  assert.deepEqual(labels([2, 50]), ["2", "5", "10", "20", "50"]);
  assert.deepEqual(labels([1e-9, 1]), ["1e-9", "1e-6", "0.001", "1"]);
  assert.ok(labels([2, 60, 500], true).includes("200"), "straight where it is asked for");
  assert.ok(labels([0, 500]).includes("200"), "zero has no logarithm");
  assert.ok(labels([30, 500]).includes("200"), "not far apart");
  const scale = measured([2, 500], [0, 400], false);
  assert.ok(scale(2) > 0 && scale(500) < 400 && scale(2) < scale(20) && scale(20) < scale(500));
});

test("trials are counted in whole numbers", () => {
  assert.deepEqual(linear([0, 1], [0, 100], { whole: true }).ticks.map((one) => one.label), ["0", "1"]);
});

test("a single value has a scale too", () => {
  const scale = linear([0.5, 0.5], [0, 100]);
  assert.ok(scale(0.5) > 0 && scale(0.5) < 100);
  assert.ok(linear([0, 0], [0, 100]).ticks.length > 0);
});

test("what is missing sorts last in both directions", () => {
  for (const sign of [1, -1]) {
    const sorted = [undefined, 2, 1, undefined, 3].sort((a, b) => compare(a, b, sign));
    assert.deepEqual(sorted.slice(3), [undefined, undefined]);
    assert.equal(sorted[0], sign > 0 ? 1 : 3);
  }
});
