// The parameters of a trial as Python code, for a cell that runs the same point.

import type { Scalar, Trial } from "./data";

// Texts that Python has shortened end with this mark; they are not the value of the point.
const CUT = "…";

function literal(value: Scalar): string {
  if (value === null) {
    return "None";
  }
  if (typeof value === "boolean") {
    return value ? "True" : "False";
  }
  return typeof value === "string" ? quoted(value) : String(value);
}

// Every escape of JSON is one of Python's. Letters that cannot be seen, such as those that change the direction of a
// line, are escaped too, so that the code is what it looks like.
function quoted(text: string): string {
  const unseen = (letter: string): string => `\\U${(letter.codePointAt(0) ?? 0).toString(16).padStart(8, "0")}`;
  return JSON.stringify(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, unseen);
}

// Returns the option of `%%bo_search` that runs this point first; null if a text of it was shortened.
export function startOption(trial: Pick<Trial, "params">): string | null {
  const pairs = Object.entries(trial.params);
  if (!pairs.length || pairs.some(([name, value]) => name.endsWith(CUT) || (typeof value === "string" && value.endsWith(CUT)))) {
    return null;
  }
  return `--start [{${pairs.map(([name, value]) => `${quoted(name)}: ${literal(value)}`).join(", ")}}]`;
}

// Copies a text to the clipboard; returns whether that worked.
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Pages that are neither local nor encrypted have no clipboard. The text is shown beside the button instead.
    return false;
  }
}
