// A report: draws the study that the page holds, if the script stands in one.

import { readStudy } from "./data";
import { refusal, StudyView } from "./view";

export function startPage(): void {
  const place = document.getElementById("nbcompress-view");
  const source = document.getElementById("nbcompress-study");
  if (!place || !source) {
    return;
  }
  const reading = readStudy(parsed(source.textContent ?? ""));
  if ("refusal" in reading) {
    place.append(refusal(reading.refusal, null, null));
    return;
  }
  const view = new StudyView();
  place.append(view.element);
  view.update(reading.study);
  // The plain HTML stays for printing and for readers without scripts.
  const plain = document.getElementById("nbcompress-plain");
  plain?.setAttribute("hidden", "");
  // Browsers that cannot unfold by a style print what is open.
  const folded = new Set<HTMLDetailsElement>();
  window.addEventListener("beforeprint", () => {
    plain?.querySelectorAll("details").forEach((part) => {
      if (!part.open) {
        folded.add(part);
        part.open = true;
      }
    });
  });
  window.addEventListener("afterprint", () => {
    folded.forEach((part) => (part.open = false));
    folded.clear();
  });
}

// Returns the data of a JSON text; of a text that is damaged null, which is refused as any other data without a study.
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
