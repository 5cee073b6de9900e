// The script of a report: draws the study that the page holds.

import { readStudy } from "./data";
import { refusal, StudyView } from "./view";

function start(): void {
  const place = document.getElementById("nbcompress-view");
  const source = document.getElementById("nbcompress-study");
  if (!place || !source) {
    return;
  }
  const reading = readStudy(JSON.parse(source.textContent ?? "null"));
  if ("refusal" in reading) {
    place.append(refusal(reading.refusal, null, null));
    return;
  }
  const view = new StudyView();
  place.append(view.element);
  view.update(reading.study);
  // The plain HTML stays for printing and for readers without scripts.
  document.getElementById("nbcompress-plain")?.setAttribute("hidden", "");
}

start();
