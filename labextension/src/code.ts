// A trial's point as Python, for the cell that runs it again.

import type { Scalar, Trial } from "./data";

// What Python's side has cut ends with this mark, and would not be the same point any more.
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

// Every escape that JSON writes is one of Python's. Letters that cannot be seen, such as those that turn the direction
// of a line, are written as escapes as well: code shall be what it looks like.
function quoted(text: string): string {
  const unseen = (letter: string): string => `\\U${(letter.codePointAt(0) ?? 0).toString(16).padStart(8, "0")}`;
  return JSON.stringify(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, unseen);
}

// Returns the option of `%%bo_search` that runs this point first; null where a text of it was cut.
export function startOption(trial: Pick<Trial, "params">): string | null {
  const pairs = Object.entries(trial.params);
  if (!pairs.length || pairs.some(([name, value]) => name.endsWith(CUT) || (typeof value === "string" && value.endsWith(CUT)))) {
    return null;
  }
  return `--start [{${pairs.map(([name, value]) => `${quoted(name)}: ${literal(value)}`).join(", ")}}]`;
}

// Puts a text on the clipboard; says whether that worked.
export async function copied(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Pages that are neither local nor encrypted have no clipboard; the text stands beside the button.
    return false;
  }
}
