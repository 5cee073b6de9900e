import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { readStudy, type ProcessData, type Study } from "../src/data";
import { makeMaps } from "../src/heatmap";
import { erfcx, logCdf, logH } from "../src/normal";
import { completePoint, fromUnit, isActive, gridOf, toUnit, type Point } from "../src/space";
import { Surrogate } from "../src/surrogate";
import { sample } from "./samples";

const FOLDER = new URL("../../../tests/samples/surrogate/", import.meta.url);

const LOG_H = [
  [-50, -1258.74418287],
  [-3, -7.8696860596],
  [-1, -2.48512102571],
  [0.5, -0.359827683745],
] as const;

interface Case {
  point: Point;
  metrics: Record<string, [number, number]>;
  chance: number | null;
  acquisition: number;
}

function isClose(found: number, known: number, what: string, tolerance = 1e-6): void {
  assert.ok(Math.abs(found - known) <= tolerance * Math.max(1, Math.abs(known)), `${what}: ${found}, but Python says ${known}`);
}

for (const file of readdirSync(FOLDER)) {
  test(`the page predicts what Python predicts: ${file}`, () => {
    const { study, cases } = JSON.parse(readFileSync(new URL(file, FOLDER), "utf8")) as { study: Study; cases: Case[] };
    assert.ok("study" in readStudy(study));
    const surrogate = Surrogate.of(study);
    assert.ok(surrogate);
    assert.ok(cases.length > 9);
    for (const expected of cases) {
      for (const { metric, mean, low, high } of surrogate.predict(expected.point)) {
        const known = expected.metrics[metric];
        if (known) {
          isClose(mean, known[0], metric);
          isClose((high - low) / 2 / 1.96, known[1], `${metric}, its deviation`);
          isClose(surrogate.mean(metric, expected.point), known[0], metric);
        }
      }
      // These divide by deviations that are small beside the values, and both sides round.
      isClose(surrogate.acquisition(expected.point), expected.acquisition, "acquisition", 1e-5);
      const feasibility = surrogate.feasibility(expected.point);
      assert.equal(feasibility === null, expected.chance === null);
      isClose(feasibility ?? 0, expected.chance ?? 0, "chance", 1e-5);
      assert.deepEqual(completePoint(study.parameters, expected.point), expected.point, "Python's points have what is active and no other");
    }
  });
}

test("maps show the probability of success where there are constraints", () => {
  const { study } = JSON.parse(readFileSync(new URL("bounded.json", FOLDER), "utf8")) as { study: Study };
  const surrogate = Surrogate.of(study)!;
  const [first, second] = study.parameters.map(({ name }) => name) as [string, string];
  const through = completePoint(study.parameters, {});
  const maps = makeMaps(study, surrogate, through, [first, second], study.metrics[0]!);
  assert.deepEqual(
    maps.fields.map(({ title }) => title),
    ["predicted score", "acquisition", "probability of success"],
  );
  const point = completePoint(study.parameters, { ...through, [first]: maps.across.values[0]!, [second]: maps.up.values[1]! });
  assert.equal(maps.fields[2]!.cells[1]![0], surrogate.feasibility(point));
});

test("the normal distribution in its tails", () => {
  // To ten digits: erfcx and log_ndtr of scipy.special, log_h of nbcompress.optimize.acquisition.
  for (const [x, known] of [
    [0, 1],
    [0.5, 0.6156903442],
    [2, 0.2553956763],
    [2.1, 0.2451191233],
    [30, 0.01879588886],
  ] as const) {
    assert.ok(Math.abs(erfcx(x) / known - 1) < 1e-8, `erfcx(${x}) = ${erfcx(x)}`);
  }
  for (const [z, known] of [
    [0, Math.log(0.5)],
    [3, -0.001350809965],
    [-10, -53.23128515],
    [-40, -804.608442],
  ] as const) {
    assert.ok(Math.abs(logCdf(z) - known) < 1e-7, `log P(Z < ${z}) = ${logCdf(z)}`);
  }
  for (const [z, known] of LOG_H) {
    assert.ok(Math.abs(logH(z) / known - 1) < 1e-8, `log h(${z}) = ${logH(z)}`);
  }
  assert.ok(Math.abs(logH(-99.99) - logH(-100.01) - 2) < 0.01, "no step where the series takes over");
});

test("values keep their grids", () => {
  const { parameters } = sample("digits");
  const [amount, bits, lr, method, clusters] = parameters;
  assert.ok(amount && bits && lr && method && clusters);
  assert.equal(fromUnit(lr, 1), 0.1);
  assert.equal(fromUnit(bits, 0.5), 4);
  assert.ok(Math.abs(toUnit(lr, 1e-2) - 2 / 3) < 1e-12);
  assert.equal(fromUnit(clusters, 0.5), 16);
  assert.equal(gridOf(method, 41).length, 2);
  assert.equal(gridOf(amount, 41).length, 41);
  assert.ok(!isActive(clusters, { method: "plain" }) && isActive(clusters, { method: "cluster" }));
  const stepped = { name: "a", kind: "float" as const, low: 0.1, high: 0.9, log: false, step: 0.1 };
  assert.deepEqual(
    gridOf(stepped, 99).map((u) => fromUnit(stepped, u)),
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
  );
});

test("a parameter that becomes active takes the middle of its range, an inactive one is left out", () => {
  const { parameters } = sample("digits");
  const point = { amount: 0.5, bits: 4, lr: 0.01, method: "cluster", clusters: 9 };
  assert.deepEqual(completePoint(parameters, { ...point, method: "plain" }), { amount: 0.5, bits: 4, lr: 0.01, method: "plain" });
  assert.equal(completePoint(parameters, { amount: 0.5, bits: 4, lr: 0.01, method: "cluster" })["clusters"], 16);
});

test("a slice runs through its point", () => {
  const { study } = JSON.parse(readFileSync(new URL("hypervolume.json", FOLDER), "utf8")) as { study: Study };
  const surrogate = Surrogate.of(study);
  assert.ok(surrogate);
  const through = { amount: 0.5, bits: 4, lr: 0.01, method: "plain" };
  const slice = surrogate.slice(through, "bits");
  assert.deepEqual([...slice.values], [2, 4, 8]);
  isClose(slice.metrics[0]?.mean[1] ?? NaN, surrogate.predict(through)[0]?.mean ?? NaN, "the mean where the slice passes");
  isClose(slice.acquisition[1] ?? NaN, surrogate.acquisition({ ...through }), "the acquisition there");
  assert.ok(slice.values.includes(slice.next));
});

test("without its trials a surrogate is not evaluated", () => {
  const { study } = JSON.parse(readFileSync(new URL("damped.json", FOLDER), "utf8")) as { study: Study };
  assert.equal(Surrogate.of({ ...study, trials: study.trials.slice(1) }), null);
  assert.equal(Surrogate.of(sample("digits")), null);
  const damaged = { ...study, surrogate: { ...study.surrogate, processes: [{}] } };
  assert.ok("refusal" in readStudy(damaged));
});

test("a surrogate that contradicts its study is not evaluated", () => {
  const { study } = JSON.parse(readFileSync(new URL("damped.json", FOLDER), "utf8")) as { study: Study };
  const data = study.surrogate!;
  const [first, ...rest] = data.processes as [ProcessData, ...ProcessData[]];
  assert.ok(Surrogate.of(study));
  const changes: Partial<typeof data>[] = [
    { feasible: [...data.feasible, 99] },
    { pending: [99] },
    { processes: [{ ...first, y: first.y.slice(1) }, ...rest] },
    { processes: [{ ...first, lengthscales: first.lengthscales.slice(1) }, ...rest] },
  ];
  for (const change of changes) {
    const changed = { ...study, surrogate: { ...data, ...change } };
    assert.ok("study" in readStudy(changed));
    assert.equal(Surrogate.of(changed), null, JSON.stringify(Object.keys(change)));
  }
});
