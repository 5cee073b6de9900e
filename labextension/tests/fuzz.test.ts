// Saved studies that lie: changed at random they are refused in one sentence or drawn, as text and within bounds.
// A few run with all tests; `NBCOMPRESS_FAULTS=200 npm test` runs 200 times as many, `NBCOMPRESS_SEED` others.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { beforeEach, test } from "node:test";
import { readStudy, type Study } from "../src/data";
import { startPage } from "../src/page";
import { StudyView } from "../src/view";
import { click, openPage } from "./page";
import { NAMES, sample } from "./samples";

const FAULTS = Number(process.env["NBCOMPRESS_FAULTS"] ?? 1);
const SEED = Number(process.env["NBCOMPRESS_SEED"] ?? FAULTS);
const N_INPUTS = 50;
const MAX_MILLISECONDS = 20_000;
const MAX_BYTES = 2 ** 30;
const SURROGATES = ["bounded", "damped", "hypervolume", "linear"];

const NUMBERS = [0, -0, 1, -1, 0.5, 2, 3, 100, 255, 2 ** 31, 2 ** 32, 2 ** 53, 1e30, 1e300, 1.7e308, -1.7e308, 5e-324, 1e-300];
const TEXTS = [
  "",
  "\0",
  "<script>x</script>",
  "<img src=x onerror=x>",
  "__proto__",
  "constructor",
  "\ud800",
  "\u202e",
  "a".repeat(1000),
  "NaN",
  "x",
  "loss",
  "complete",
];

type Random = () => number;

// The generator mulberry32.
function random(seed: number): Random {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const below = (rng: Random, n: number): number => Math.floor(rng() * n);
const choice = <T>(rng: Random, items: readonly T[]): T => items[below(rng, items.length)]!;

function anyJson(rng: Random, depth = 2): unknown {
  switch (below(rng, depth ? 7 : 4)) {
    case 0:
      return null;
    case 1:
      return rng() < 0.5;
    case 2:
      return choice(rng, NUMBERS);
    case 3:
      return choice(rng, TEXTS);
    case 4:
      return Array.from({ length: below(rng, 4) }, () => anyJson(rng, depth - 1));
    case 5:
      return JSON.parse("[".repeat(500) + "]".repeat(500));
    default:
      return Object.fromEntries(Array.from({ length: below(rng, 4) }, () => [choice(rng, TEXTS), anyJson(rng, depth - 1)]));
  }
}

type Owner = Record<string | number, unknown>;

function placesOf(tree: unknown): [Owner, string | number][] {
  const found: [Owner, string | number][] = [];
  const waiting = [tree];
  for (let owner = waiting.pop(); owner !== undefined; owner = waiting.pop()) {
    for (const [key, value] of Object.entries(owner as object)) {
      found.push([owner as Owner, Array.isArray(owner) ? Number(key) : key]);
      if (typeof value === "object" && value !== null) {
        waiting.push(value);
      }
    }
  }
  return found;
}

// Changes some places of a tree: most keep their type, so that many studies pass the guards and contradict themselves.
function change_(tree: unknown, rng: Random): void {
  for (let n = choice(rng, [1, 1, 2, 3, 8]); n > 0; n--) {
    const places = placesOf(tree);
    const [owner, key] = choice(rng, places);
    const value = owner[key];
    if (rng() < 0.15) {
      owner[key] = anyJson(rng);
    } else if (Array.isArray(owner) && rng() < 0.5) {
      owner.splice(key as number, below(rng, 3), ...(rng() < 0.5 ? [] : [structuredClone(choice(rng, owner) as unknown)]));
    } else if (!Array.isArray(owner) && rng() < 0.15) {
      delete owner[key];
    } else if (!Array.isArray(owner) && rng() < 0.15) {
      owner[rng() < 0.5 ? choice(rng, TEXTS) : String(choice(rng, places)[1])] = value;
      if (rng() < 0.5) {
        delete owner[key];
      }
    } else if (typeof value === "number") {
      owner[key] = rng() < 0.5 ? choice(rng, NUMBERS) : choice(rng, [value + 1, -value, value * 1e300, value * 1e-300, Math.round(value)]);
    } else if (typeof value === "string") {
      const texts = places.map(([o, k]) => o[k]).filter((other) => typeof other === "string");
      owner[key] = rng() < 0.5 ? choice(rng, TEXTS) : choice(rng, texts);
    } else if (Array.isArray(value) && rng() < 0.3) {
      owner[key] = [];
    } else {
      const [other, where] = choice(rng, places);
      const copied = other[where];
      owner[key] = typeof copied === "object" && copied !== null ? structuredClone(copied) : copied;
    }
  }
}

function changedText(text: string, rng: Random): string {
  const place = below(rng, text.length);
  const marks = ['"', "{", "}", "[", "]", ",", ":", "-", "1e999", "\\u0000", "</script>", "\0", "[".repeat(20_000)];
  return text.slice(0, place) + choice(rng, ["", ...marks]) + (rng() < 0.2 ? "" : text.slice(place + below(rng, 3)));
}

const SURROGATE = (name: string): Study =>
  (JSON.parse(readFileSync(new URL(`../../../tests/samples/surrogate/${name}.json`, import.meta.url), "utf8")) as { study: Study }).study;
const STUDIES = [...NAMES.map(sample), ...SURROGATES.map(SURROGATE)].map((study) => JSON.stringify(whole(study)));

// Returns a study that has what the samples lack: times, workers, kept values, limits, results on unseen data.
function whole(study: Study): Study {
  const trials = study.trials.map((trial, i) => ({ started: 1e9 + i, ended: 1e9 + i + 1.5, worker: i % 2 ? "a" : "b", ...trial }));
  const narrowed = Object.fromEntries(study.parameters.map(({ name, options }) => [name, options?.slice(0, 1) ?? [0.1, 0.5]]));
  const insights = study.goal.objectives.map(({ metric }) => ({ metric, importance: study.importance ?? {}, calibration: study.calibration ?? null }));
  const seen = {
    columns: ["trial", ...study.metrics],
    rows: [
      ["original", "0.5"],
      ["3", "x"],
    ],
  };
  return { ...study, trials, narrowed, insights, kept: { 0: ["model", "x"] }, test: seen };
}

beforeEach(openPage);

// Draws a study in all views, with a chosen trial.
function draw(study: Study): void {
  const view = new StudyView();
  document.body.append(view.element);
  view.update(study);
  for (const tab of [...view.element.querySelectorAll("[role=tab]")]) {
    click(tab);
  }
  click(view.element.querySelector(".nbc-table tbody tr"));
  click(view.element.querySelector(".nbc-toggle"));
  assert.equal(view.element.querySelectorAll("script, img, b, iframe").length, 0);
  view.dispose();
}

// Calls a function for each input; a failure names the seed and what was changed.
async function campaign(name: string, read: (rng: Random) => void): Promise<void> {
  let slowest = 0;
  let largest = 0;
  const problems = new Map<string, string>();
  for (let i = 0; i < FAULTS * N_INPUTS; i++) {
    if (i % 10 === 0) {
      // Memory of a page is free when the event loop has turned.
      openPage();
      await new Promise((done) => setTimeout(done));
    }
    const [before, start] = [process.memoryUsage().heapUsed, performance.now()];
    try {
      read(random(SEED * 1_000_003 + i));
    } catch (error) {
      const { message, stack } = error as Error;
      const lines = stack?.split("\n").filter((line) => line.includes("/src/")) ?? [];
      problems.set(`${message.slice(0, 100)} ${lines.slice(0, 3).join(" ")}`, `seed ${SEED}, input ${i}`);
    }
    slowest = Math.max(slowest, performance.now() - start);
    largest = Math.max(largest, process.memoryUsage().heapUsed - before);
  }
  assert.deepEqual([...problems], []);
  assert.ok(slowest < MAX_MILLISECONDS && largest < MAX_BYTES, `${slowest} ms, ${largest} bytes`);
  if (FAULTS > 1) {
    console.log(`${name}: ${FAULTS * N_INPUTS} inputs, slowest ${slowest.toFixed(0)} ms, largest ${(largest / 1e6).toFixed(1)} MB`);
  }
}

test("studies that contradict themselves are refused or drawn", async () => {
  const refusals = STUDIES.map((study) => readStudy(JSON.parse(study))).filter((reading) => "refusal" in reading);
  assert.deepEqual(refusals, []);
  let drawn = 0;
  let refused = 0;
  await campaign("studies", (rng) => {
    const data = JSON.parse(choice(rng, STUDIES)) as unknown;
    change_(data, rng);
    const reading = readStudy(JSON.parse(JSON.stringify(data)));
    if ("study" in reading) {
      drawn += 1;
      draw(reading.study);
    } else {
      refused += 1;
      assert.match(reading.refusal, /^This [^\n]+\.$/);
    }
  });
  assert.ok(Math.min(drawn, refused) > (FAULTS * N_INPUTS) / 10, `${drawn} drawn, ${refused} refused`);
});

test("a page with any text in the place of its study draws it or says why not", async () => {
  await campaign("pages", (rng) => {
    const text = changedText(choice(rng, STUDIES), rng);
    document.body.innerHTML = '<div id="nbcompress-view"></div><script type="application/json" id="nbcompress-study"></script>';
    document.getElementById("nbcompress-study")!.textContent = text;
    startPage();
    const view = document.getElementById("nbcompress-view")!;
    assert.ok(view.querySelector(".nbc-title, .nbc-refusal"), text.slice(0, 80));
    assert.equal(view.querySelectorAll("script, img, b, iframe").length, 0);
  });
});
