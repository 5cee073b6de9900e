// The live panel as an anywidget module: one state for the model, and a view for each output that shows it. The same
// script draws a report, so that the view is built once.

import { readStudy, type Study } from "./data";
import { Connection } from "./connection";
import { applyDelta, isAck, isDelta, isGap, isPanelState, isFullState, type PanelState } from "./messages";
import type { Controls } from "./header";
import { CommandSender, type Manager } from "./commands";
import { startPage } from "./page";
import { refusal, StudyView } from "./view";
import { trans } from "./words";

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

// Keeps the state of the model up to date, so that a view that opens later starts from it.
function initialize({ model }: { model: Model }): () => void {
  const onMessage = (message: unknown) => {
    const state = stateOf(model);
    if (isFullState(message)) {
      model.set(STATE, message.state);
    } else if (state && isDelta(message)) {
      if (isGap(state, message)) {
        console.debug("nbcompress: a message was missed; the panel catches up when Python answers.");
      }
      model.set(STATE, applyDelta(state, message));
    }
  };
  model.on("msg:custom", onMessage);
  return () => model.off("msg:custom", onMessage);
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const reading = readStudy(stateOf(model)?.study);
  if ("refusal" in reading) {
    el.replaceChildren(refusal(reading.refusal, null, null));
    return () => el.replaceChildren();
  }
  const view = new StudyView(true);
  el.replaceChildren(view.element);
  let sender: CommandSender | null = null;
  const redraw = () => {
    const state = stateOf(model);
    if (state) {
      view.update(connection.lostReason ? lastKnown(state.study, connection.lostReason) : state.study);
    }
  };
  const connection = new Connection(model.widget_manager, () => {
    redraw();
    sender?.offer();
  });
  const id = model.get("controls_id");
  if (typeof id === "string" && id) {
    const interrupts = model.get("interrupts") === true;
    const show = (controls: Controls) => view.setControls(connection.lostReason ? null : controls);
    sender = new CommandSender(
      model.widget_manager,
      id,
      interrupts,
      () => connection.isConfirmed,
      () => stateOf(model),
      show,
    );
    void connection.checkControls(id);
  }
  const onMessage = (message: unknown) => {
    if (isAck(message) || isFullState(message) || isDelta(message)) {
      connection.receive();
    }
    if (isAck(message)) {
      sender?.handleAnswer(message);
    }
  };
  model.on(`change:${STATE}`, redraw);
  model.on("msg:custom", onMessage);
  redraw();
  sender?.start();
  return () => {
    model.off(`change:${STATE}`, redraw);
    model.off("msg:custom", onMessage);
    connection.dispose();
    sender?.dispose();
    view.dispose();
  };
}

// Returns the study as it was at the last message. The page does not know whether the search still runs somewhere.
function lastKnown(study: Study, reason: string): Study {
  const sentence = `${reason} ${trans.__("This is its last known state; %1 shows the current one.", `%bo_study ${study.name}`)}`;
  return study.state === "running" ? { ...study, state: "ended", left: null, ending: sentence } : study;
}

// Tests have no page yet when they load this file.
if (typeof document !== "undefined") {
  startPage();
}

export default { initialize, render };
