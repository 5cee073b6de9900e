// JupyterLab's renderer of saved studies. It needs no kernel and also draws in notebooks that are not trusted.

import type { IRenderMime } from "@jupyterlab/rendermime-interfaces";
import type { Widget } from "@lumino/widgets";
import { MIME, readStudy } from "./data";
import { refusal, StudyView } from "./view";

type WidgetClass = new (options?: Widget.IOptions) => Widget;

// The class Widget must come from JupyterLab: instances of a second copy could not be attached.
export function mimeExtension(Base: WidgetClass): IRenderMime.IExtension {
  class RenderedStudy extends Base implements IRenderMime.IRenderer {
    private view: StudyView | null = null;

    renderModel(model: IRenderMime.IMimeModel): Promise<void> {
      const reading = readStudy(model.data[MIME]);
      if ("refusal" in reading) {
        this.clear();
        this.node.replaceChildren(refusal(reading.refusal, text(model.data["text/plain"]), text(model.data["image/png"])));
        return Promise.resolve();
      }
      if (!this.view) {
        this.view = new StudyView(true);
        this.node.replaceChildren(this.view.element);
      }
      this.view.update(reading.study);
      return Promise.resolve();
    }

    override dispose(): void {
      this.clear();
      super.dispose();
    }

    private clear(): void {
      this.view?.dispose();
      this.view = null;
    }
  }

  return {
    id: "nbcompress:study",
    description: "Draws studies of nbcompress that a notebook holds.",
    rendererFactory: { safe: true, mimeTypes: [MIME], createRenderer: () => new RenderedStudy() },
    rank: 0,
    dataType: "json",
    documentWidgetFactoryOptions: [],
  };
}

// A notebook holds a text as one string or as a list of lines.
function text(value: unknown): string | null {
  if (Array.isArray(value)) {
    return value.filter((line) => typeof line === "string").join("");
  }
  return typeof value === "string" ? value : null;
}
