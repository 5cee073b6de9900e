import assert from "node:assert/strict";
import { test } from "node:test";
import { shorten, formatDuration, goalText, metricsText, formatValue, formatMetric } from "../src/format";
import { extent, linearScale, logScale, valueScale, niceStep } from "../src/scales";
import { compare } from "../src/trials";
import { sample } from "./samples";

test("numbers and choices are formatted as in Python", () => {
  const table: [Parameters<typeof formatValue>[0], string][] = [
    [0.123456, "0.1235"],
    [12, "12"],
    [true, "True"],
    [null, "None"],
    ["plain", "plain"],
    [undefined, ""],
    [1e-5, "0.00001"],
    ["", '""'],
    ["None", '"None"'],
    ["True", '"True"'],
    ["8", '"8"'],
    ["-1.5e3", '"-1.5e3"'],
    [" a", '" a"'],
    ["a b", "a b"],
    ["v8", "v8"],
  ];
  for (const [value, text] of table) {
    assert.equal(formatValue(value), text);
  }
  assert.equal(formatMetric(null), "");
});

test("durations are short", () => {
  assert.deepEqual([null, 0, 0.123, 9.5, 48.2, 200, 7500].map(formatDuration), ["?", "0 s", "0.12 s", "9.5 s", "48 s", "3 min 20 s", "2 h 5 min"]);
});

test("a long text is shortened with an ellipsis", () => {
  assert.equal(shorten("abcdef", 4), "abc…");
  assert.equal(shorten("abcd", 4), "abcd");
});

test("the goal reads as a sentence", () => {
  const study = sample("digits");
  assert.equal(goalText(study.goal), "maximize accuracy, minimize kilobytes, subject to kilobytes <= 60");
  const best = study.trials.find((trial) => trial.number === study.best);
  assert.match(best ? metricsText(best, study.metrics) : "", /^accuracy 0\.\d+, kilobytes [\d.]+$/);
});

test("a linear scale holds for every finite domain", () => {
  const largest = Number.MAX_VALUE;
  for (const domain of [
    [0, 1e308],
    [-largest, largest],
    [largest, largest],
    [1, 1e308],
    [0, 5e-324],
    [1e-310, 2e-310],
    // The same value but for rounding: with ticks between the two the page would never end.
    [0.3, 0.1 + 0.2],
    [1, 1 + Number.EPSILON],
    [-1e30, -1e30 * (1 - Number.EPSILON)],
  ] as [number, number][]) {
    const scale = linearScale(domain, [0, 100]);
    const places = domain.map(scale);
    assert.ok(
      places.every((place) => place >= 0 && place <= 100),
      `${domain}: ${places}`,
    );
    assert.ok(
      scale.ticks.every((tick) => Number.isFinite(scale(tick.value)) && !tick.label.includes("NaN")),
      String(domain),
    );
    assert.ok(scale.ticks.length < 30);
  }
});

test("scales place the ends of a domain, ticks lie inside", () => {
  const scale = linearScale([0, 10], [0, 100], { padded: false });
  assert.deepEqual([scale(0), scale(5), scale(10)], [0, 50, 100]);
  assert.deepEqual(
    scale.ticks.map((tick) => tick.label),
    ["0", "2", "4", "6", "8", "10"],
  );
  const logs = logScale([1e-4, 1e-1], [0, 300]);
  assert.ok(Math.abs(logs(1e-3) - 100) < 1e-9);
  assert.deepEqual(
    logs.ticks.map((tick) => tick.label),
    ["1e-4", "0.001", "0.01", "0.1"],
  );
  assert.equal(niceStep(1, 5), 0.2);
  assert.deepEqual(extent([3, 1, NaN, 2]), [1, 3]);
  assert.equal(extent([]), null);
});

test("values that are far apart get a logarithmic axis", () => {
  const labels = (values: number[], straight = false) => valueScale(values, [0, 400], straight).ticks.map((tick) => tick.label);
  assert.deepEqual(labels([2, 60, 500]), ["3", "10", "30", "100", "300"]);
  assert.deepEqual(labels([2, 50]), ["2", "5", "10", "20", "50"]);
  assert.deepEqual(labels([1e-9, 1]), ["1e-9", "1e-6", "0.001", "1"]);
  assert.ok(labels([2, 60, 500], true).includes("200"), "straight where it is asked for");
  assert.ok(labels([0, 500]).includes("200"), "zero has no logarithm");
  assert.ok(labels([30, 500]).includes("200"), "not far apart");
  const scale = valueScale([2, 500], [0, 400], false);
  assert.ok(scale(2) > 0 && scale(500) < 400 && scale(2) < scale(20) && scale(20) < scale(500));
});

test("trials are counted in whole numbers", () => {
  assert.deepEqual(
    linearScale([0, 1], [0, 100], { whole: true }).ticks.map((tick) => tick.label),
    ["0", "1"],
  );
});

test("a single value has a scale too", () => {
  const scale = linearScale([0.5, 0.5], [0, 100]);
  assert.ok(scale(0.5) > 0 && scale(0.5) < 100);
  assert.ok(linearScale([0, 0], [0, 100]).ticks.length > 0);
});

test("missing values sort last in both directions", () => {
  for (const sign of [1, -1]) {
    const sorted = [undefined, 2, 1, undefined, 3].sort((a, b) => compare(a, b, sign));
    assert.deepEqual(sorted.slice(3), [undefined, undefined]);
    assert.equal(sorted[0], sign > 0 ? 1 : 3);
  }
});
