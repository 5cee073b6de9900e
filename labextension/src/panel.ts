// The live panel as an anywidget module: one state for the model, a view for each place that shows it.

import { readStudy, type Study } from "./data";
import { Life } from "./life";
import { applied, isAck, isDelta, isGap, isPanelState, isWhole, type PanelState } from "./messages";
import type { Controls } from "./header";
import { Steering, type Manager } from "./steering";
import { refusal, StudyView } from "./view";

interface Model {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  on(name: string, callback: (...given: unknown[]) => void): void;
  off(name: string, callback: (...given: unknown[]) => void): void;
  widget_manager: Manager;
}

const STATE = "state";

function stateOf(model: Model): PanelState | null {
  const state = model.get(STATE);
  return isPanelState(state) ? state : null;
}

// Keeps the model's state up to date, so that a view that opens later starts from what is true then.
function initialize({ model }: { model: Model }): () => void {
  const hear = (message: unknown) => {
    const state = stateOf(model);
    if (isWhole(message)) {
      model.set(STATE, message.state);
    } else if (state && isDelta(message)) {
      if (isGap(state, message)) {
        console.debug("nbcompress: a message was missed; the panel catches up when Python answers.");
      }
      model.set(STATE, applied(state, message));
    }
  };
  model.on("msg:custom", hear);
  return () => model.off("msg:custom", hear);
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const reading = readStudy(stateOf(model)?.study);
  if ("refusal" in reading) {
    el.replaceChildren(refusal(reading.refusal, null, null));
    return () => el.replaceChildren();
  }
  const view = new StudyView();
  el.replaceChildren(view.element);
  let steering: Steering | null = null;
  const redraw = () => {
    const state = stateOf(model);
    if (state) {
      view.update(life.lost ? left(state.study, life.lost) : state.study);
    }
  };
  const life = new Life(model.widget_manager, () => {
    redraw();
    steering?.offer();
  });
  const id = model.get("controls_id");
  if (typeof id === "string" && id) {
    const interrupts = model.get("interrupts") === true;
    const show = (controls: Controls) => view.steer(life.lost ? null : controls);
    steering = new Steering(model.widget_manager, id, interrupts, () => life.isCertain, () => stateOf(model), show);
    void life.look(id);
  }
  const hear = (message: unknown) => {
    if (isAck(message) || isWhole(message) || isDelta(message)) {
      life.heard();
    }
    if (isAck(message)) {
      steering?.heard(message);
    }
  };
  model.on(`change:${STATE}`, redraw);
  model.on("msg:custom", hear);
  redraw();
  steering?.start();
  return () => {
    model.off(`change:${STATE}`, redraw);
    model.off("msg:custom", hear);
    life.dispose();
    steering?.dispose();
    view.dispose();
  };
}

// How far a search was when it was heard of last. Whether it goes on somewhere, this page cannot tell.
function left(study: Study, reason: string): Study {
  const sentence = `${reason} This is how far it was; %bo_study ${study.name} shows how it stands.`;
  return study.state === "running" ? { ...study, state: "ended", left: null, ending: sentence } : study;
}

export default { initialize, render };
