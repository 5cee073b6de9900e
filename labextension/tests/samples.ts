// The samples that the Python tests validate against the schema.

import { readdirSync, readFileSync } from "node:fs";
import type { Study } from "../src/data";

const FOLDER = new URL("../../../tests/samples/", import.meta.url);

export function sample(name: string): Study {
  return JSON.parse(readFileSync(new URL(`${name}.json`, FOLDER), "utf8")) as Study;
}

export const NAMES = readdirSync(FOLDER)
  .filter((name) => name.endsWith(".json"))
  .map((name) => name.slice(0, -5));
