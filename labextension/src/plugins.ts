// The plugins for JupyterLab: settings, the list of studies, files that open as tabs, the form, and the view of a search
// that ran before the page was loaded.

import type { Widget } from "@lumino/widgets";
import { Comparison, type Compared } from "./compare";
import { copyText } from "./code";
import { el, userText } from "./dom";
import { cellOf, choicesOf, SearchForm } from "./insert";
import { keepKeys } from "./keys";
import { LAB_STYLES } from "./lab_styles";
import type { LabModules, NotebookPanel, NotebookTracker, Plugin, SettingsStore } from "./lab";
import { useTranslation, type Translation } from "./words";
import { modelView } from "./model_view";
import { RunningPanel } from "./running";
import { RequestFailed, StudyServer, type Line, type Source } from "./server";
import { Settings, SETTINGS_ID } from "./settings";
import { keyOf, StudyList } from "./studies";
import { shortName, StudyTab } from "./study_tab";
import { STYLES } from "./styles";

const SIDEBAR_ID = "nbcompress-studies";
const CATEGORY = "nbcompress";
const OPEN = "nbcompress:open-study";
const SHOW = "nbcompress:show-studies";
const INSERT = "nbcompress:insert-search";
// Dots on a falling line: a study.
const ICON =
  '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><g class="jp-icon3" fill="#616161"><path d="M3 3h2v16h16v2H3z"/><circle cx="8" cy="7" r="2"/><circle cx="11" cy="12" r="2"/><circle cx="15" cy="14.5" r="2"/><circle cx="19.500" cy="16" r="2"/><circle cx="15" cy="7" r="1.300" opacity=".6"/><circle cx="19" cy="10" r="1.300" opacity=".6"/></g></svg>';
const MODEL_FILE = ".nbz";
// Between two looks at whether a cell shows something.
const LOOK_MILLISECONDS = 200;

interface Restorer {
  add(widget: Widget, name: string): void;
}

interface Palette {
  addItem(item: { command: string; category: string; args?: object }): unknown;
}

// What all plugins share; it is made when the page loads the extension.
interface Shared {
  modules: LabModules;
  settings: Settings;
  icon: unknown;
}

export function plugins(modules: LabModules): Plugin[] {
  const icon = new modules.ui.LabIcon({ name: "nbcompress:studies", svgstr: ICON });
  const shared: Shared = { modules, settings: new Settings(), icon };
  return [settingsPlugin(shared), studiesPlugin(shared), filesPlugin(shared), insertPlugin(shared), runningPlugin(shared)];
}

function translation(shared: Shared, translator: unknown): Translation {
  const { nullTranslator } = shared.modules.translation;
  const given = (translator as typeof nullTranslator | null) ?? nullTranslator;
  let loaded: Translation;
  try {
    loaded = given.load("nbcompress");
  } catch (error) {
    console.warn("nbcompress: the language pack cannot be read, so texts are in English.", error);
    loaded = nullTranslator.load("nbcompress");
  }
  useTranslation(loaded);
  return loaded;
}

// A Lumino widget around an element of ours.
function widgetOf(shared: Shared, element: HTMLElement): Widget {
  const widget = new shared.modules.widgets.Widget();
  widget.node.append(el("style", {}, STYLES + LAB_STYLES), element);
  widget.addClass("nbc-widget");
  const release = keepKeys(element);
  widget.disposed.connect(release);
  return widget;
}

function settingsPlugin(shared: Shared): Plugin {
  return {
    id: SETTINGS_ID,
    description: "The settings of nbcompress.",
    autoStart: true,
    optional: [shared.modules.settingregistry.ISettingRegistry],
    activate: async (_app, registry) => {
      try {
        const store = await (registry as { load(id: string): Promise<SettingsStore> } | null)?.load(SETTINGS_ID);
        if (store) {
          shared.settings.use(store);
        }
      } catch (error) {
        console.warn("nbcompress: the settings cannot be read, so the defaults are used.", error);
      }
    },
  };
}

// Calls `look` again and again while `isShown`, at the rate of the settings.
function repeat(settings: Settings, isShown: () => boolean, look: () => Promise<void>): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isOver = false;
  const next = async (): Promise<void> => {
    if (isShown() && !document.hidden) {
      await look();
    }
    if (!isOver) {
      timer = setTimeout(() => void next(), settings.values.refresh * 1000);
    }
  };
  void next();
  return () => {
    isOver = true;
    clearTimeout(timer);
  };
}

// The path of a file as a notebook in another folder names it.
export function relativePath(path: string, folder: string): string {
  const [to, from] = [path.split("/"), folder.split("/").filter(Boolean)];
  let same = 0;
  while (same < from.length && same < to.length - 1 && from[same] === to[same]) {
    same += 1;
  }
  return [...from.slice(same).map(() => ".."), ...to.slice(same)].join("/");
}

function studiesPlugin(shared: Shared): Plugin {
  const { modules, settings } = shared;
  const { apputils } = modules;
  return {
    id: "nbcompress:studies",
    description: "Lists studies in a sidebar, and opens and compares them.",
    autoStart: true,
    optional: [modules.application.ILayoutRestorer, apputils.ICommandPalette, modules.translation.ITranslator, modules.notebook.INotebookTracker],
    activate: (app, restorer, palette, translator, tracker) => {
      const trans = translation(shared, translator);
      const server = new StudyServer(app, modules.services.ServerConnection);
      const sourceOf = (line: Line): Source => ({ path: line.path, kernel: line.kernel, study: line.name });

      const openTab = (content: Widget, id: string, label: string): void => {
        const tab = new apputils.MainAreaWidget({ content });
        Object.assign(tab, { id });
        Object.assign(tab.title, { label, icon: shared.icon, closable: true, caption: label });
        app.shell.add(tab, "main");
        app.shell.activateById(id);
      };
      const tabs = new Map<string, Widget>();
      const openStudy = (source: Source): void => {
        const id = `nbcompress-study-${JSON.stringify(source)}`;
        if (tabs.has(id)) {
          app.shell.activateById(id);
          return;
        }
        const content = studyWidget(shared, server, source, trans);
        tabs.set(id, content);
        content.disposed.connect(() => tabs.delete(id));
        openTab(content, id, shortName(source));
      };

      const compare = (lines: Line[]): void => {
        const view = new Comparison(trans);
        const content = widgetOf(shared, el("div.nbc-tabpage", {}, view.element));
        const asker = `compare ${Date.now()}`;
        const known = new Map<string, Compared>();
        const look = async (): Promise<void> => {
          await Promise.all(
            lines.map(async (line) => {
              const before = known.get(keyOf(line));
              try {
                const reading = await server.study(sourceOf(line), asker);
                if (reading) {
                  const study = "study" in reading ? reading.study : null;
                  known.set(keyOf(line), { label: line.label, study, problem: "refusal" in reading ? reading.refusal : null });
                }
              } catch (error) {
                known.set(keyOf(line), { label: line.label, study: before?.study ?? null, problem: textOf(error, trans) });
              }
            }),
          );
          view.update(
            lines.map((line) => known.get(keyOf(line)) ?? { label: line.label, study: null, problem: null }),
            settings.values.colors,
          );
        };
        const end = repeat(settings, () => content.isVisible || !known.size, look);
        content.disposed.connect(() => {
          end();
          server.forget(asker);
          view.dispose();
        });
        openTab(content, `nbcompress-${asker}`, trans.__("Comparison"));
      };

      const copy = async (line: Line): Promise<void> => {
        const notebook = (tracker as NotebookTracker | null)?.currentWidget;
        const folder = notebook ? app.serviceManager.contents.localPath(notebook.context.path).split("/").slice(0, -1).join("/") : "";
        const shown = line.kernel === null && !line.path.includes("://") ? relativePath(line.path, folder) : line.path.replace(/^sqlite:\/\/\//, "");
        const code = await server.code(sourceOf(line), shown);
        if (await copyText(code)) {
          apputils.Notification.success(trans.__("Copied the lines that open %1.", line.label), { autoClose: 3000 });
        } else {
          await apputils.showDialog({
            title: trans.__("Code of %1", line.label),
            body: widgetOf(shared, el("pre", {}, code)),
            buttons: [apputils.Dialog.okButton()],
          });
        }
      };

      const report = async (line: Line): Promise<void> => {
        apputils.Notification.info(trans.__("The server writes the report of %1. This takes some seconds.", line.label), { autoClose: 8000 });
        const url = URL.createObjectURL(await server.report(sourceOf(line)));
        const link = el("a", { href: url, download: `${line.name.replace(/[^\p{L}\p{N}._~-]+/gu, "-") || "study"}.html` });
        link.click();
        setTimeout(() => URL.revokeObjectURL(url), 60_000);
      };

      const remove = async (line: Line): Promise<void> => {
        const { token, trials } = await server.deletionToken(sourceOf(line));
        const body = el(
          "p",
          {},
          trans._n("This deletes %1 trial of the study ", "This deletes %1 trials of the study ", trials, trials),
          userText(line.label),
          ". ",
          trans.__("It cannot be undone."),
        );
        const answer = await apputils.showDialog({
          title: trans.__("Delete the study?"),
          body: widgetOf(shared, body),
          buttons: [apputils.Dialog.cancelButton(), apputils.Dialog.warnButton({ label: trans.__("Delete") })],
        });
        if (answer.button.accept) {
          await server.delete(sourceOf(line), token);
          await look();
        }
      };

      const guarded =
        (act: (line: Line) => Promise<void> | void) =>
        (line: Line): void =>
          void Promise.resolve(act(line)).catch((error: unknown) => apputils.Notification.error(textOf(error, trans)));
      const list = new StudyList(trans, {
        open: (line) => openStudy(sourceOf(line)),
        compare,
        copy: guarded(copy),
        report: guarded(report),
        remove: guarded(remove),
      });
      const sidebar = widgetOf(shared, list.element);
      Object.assign(sidebar, { id: SIDEBAR_ID });
      Object.assign(sidebar.title, { icon: shared.icon, caption: trans.__("Studies") });
      sidebar.node.setAttribute("role", "region");
      sidebar.node.setAttribute("aria-label", trans.__("Studies"));
      const look = async (): Promise<void> => {
        try {
          list.show(await server.list());
        } catch (error) {
          list.fail(textOf(error, trans));
        }
      };
      app.shell.add(sidebar, "left", { rank: 600 });
      (restorer as Restorer | null)?.add(sidebar, SIDEBAR_ID);
      repeat(settings, () => sidebar.isVisible, look);

      app.commands.addCommand(SHOW, {
        label: trans.__("Show studies"),
        icon: shared.icon,
        execute: () => {
          app.shell.activateById(SIDEBAR_ID);
          return look();
        },
      });
      app.commands.addCommand(OPEN, {
        label: trans.__("Open a study"),
        isVisible: () => false,
        execute: (args) => {
          const text = (name: string): string | null => (typeof args[name] === "string" ? args[name] : null);
          openStudy({ path: text("path") ?? "", kernel: text("kernel"), study: text("study") });
        },
      });
      (palette as Palette | null)?.addItem({ command: SHOW, category: CATEGORY });
    },
  };
}

function textOf(error: unknown, trans: Translation): string {
  if (error instanceof RequestFailed) {
    return error.status === 404 ? trans.__("The Jupyter server cannot read this study, or its part of nbcompress is not installed.") : error.message;
  }
  return trans.__("The Jupyter server does not answer.");
}

// A study tab as a widget, which looks at the study only while it is shown.
function studyWidget(shared: Shared, server: StudyServer, source: Source, trans: Translation): Widget {
  const tab = new StudyTab(server, source, shared.settings, trans);
  const widget = widgetOf(shared, tab.element);
  const shown = setInterval(() => tab.setShown(widget.isVisible && !document.hidden), 500);
  widget.disposed.connect(() => {
    clearInterval(shown);
    tab.dispose();
  });
  return widget;
}

interface FileContext {
  path: string;
  ready: Promise<void>;
}

// Files open as documents, so that the file browser, links and the layout know them.
function filesPlugin(shared: Shared): Plugin {
  const { modules } = shared;
  return {
    id: "nbcompress:files",
    description: "Opens journals, databases of Optuna and compressed models as tabs.",
    autoStart: true,
    optional: [modules.translation.ITranslator],
    activate: (app, translator) => {
      const trans = translation(shared, translator);
      const server = new StudyServer(app, modules.services.ServerConnection);
      const types = [
        { name: "nbcompress-journal", displayName: trans.__("Studies (journal)"), extensions: [".journal"] },
        { name: "nbcompress-database", displayName: trans.__("Studies (SQLite)"), extensions: [".db", ".sqlite", ".sqlite3"] },
        { name: "nbcompress-model", displayName: trans.__("Compressed model"), extensions: [MODEL_FILE] },
      ];
      types.forEach((type) => app.docRegistry.addFileType({ ...type, contentType: "file", fileFormat: "base64", icon: shared.icon, mimeTypes: [] }));
      const text = app.docRegistry.getModelFactory("text");
      if (!text) {
        return;
      }
      // The server reads these files. As a document they have no contents, whatever their length.
      const modelName = "nbcompress-unread";
      app.docRegistry.addModelFactory(Object.create(text, { name: { value: modelName }, fileFormat: { value: null } }) as object);
      const content = (context: FileContext): Widget => {
        const path = app.serviceManager.contents.localPath(context.path);
        if (!path.endsWith(MODEL_FILE)) {
          return studyWidget(shared, server, { path, kernel: null, study: null }, trans);
        }
        const place = el("div.nbc-tabpage", {}, el("p", {}, trans.__("The server reads the file ...")));
        const show = (element: HTMLElement): void => place.replaceChildren(element);
        server.model(path).then(
          (data) => show(modelView(data, trans)),
          () => show(modelView(null, trans)),
        );
        return widgetOf(shared, place);
      };
      app.docRegistry.addWidgetFactory(
        new TabFactory(
          shared,
          trans.__("Study"),
          modelName,
          types.map(({ name }) => name),
          content,
        ),
      );
    },
  };
}

// A factory of document widgets, as the document manager uses it.
class TabFactory {
  readonly readOnly = true;
  readonly preferKernel = false;
  readonly canStartKernel = false;
  readonly isDisposed = false;
  readonly autoStartDefault = false;
  readonly shutdownOnClose = false;
  readonly defaultFor: string[];
  readonly defaultRendered: string[] = [];
  readonly widgetCreated = new Slots<Widget>();

  constructor(
    private readonly shared: Shared,
    readonly name: string,
    readonly modelName: string,
    readonly fileTypes: string[],
    private readonly content: (context: FileContext) => Widget,
  ) {
    this.defaultFor = fileTypes;
  }

  get label(): string {
    return this.name;
  }

  createNew(context: FileContext): Widget {
    const tab = new this.shared.modules.apputils.MainAreaWidget({ content: this.content(context) });
    Object.assign(tab, { context, setFragment: () => undefined });
    Object.assign(tab.title, { icon: this.shared.icon, label: context.path.split("/").at(-1) ?? "" });
    this.widgetCreated.emit(this, tab);
    return tab;
  }

  dispose(): void {
    // It lives as long as the page.
  }
}

// A signal in the form that the document manager connects to.
class Slots<T> {
  readonly #slots: ((sender: unknown, value: T) => void)[] = [];

  connect(slot: (sender: unknown, value: T) => void, self?: unknown): boolean {
    this.#slots.push(slot.bind(self));
    return true;
  }

  disconnect(): boolean {
    return false;
  }

  emit(sender: unknown, value: T): void {
    this.#slots.forEach((slot) => slot(sender, value));
  }
}

function insertPlugin(shared: Shared): Plugin {
  const { modules } = shared;
  const { apputils, notebook } = modules;
  return {
    id: "nbcompress:insert",
    description: "Inserts a search cell that a form describes.",
    autoStart: true,
    requires: [notebook.INotebookTracker],
    optional: [apputils.ICommandPalette, modules.translation.ITranslator],
    activate: (app, tracker, palette, translator) => {
      const trans = translation(shared, translator);
      const notebooks = tracker as NotebookTracker;
      app.commands.addCommand(INSERT, {
        label: trans.__("Insert a search"),
        caption: trans.__("Insert a cell that searches how to compress a model"),
        icon: shared.icon,
        isEnabled: () => notebooks.currentWidget !== null,
        execute: async () => {
          const panel = notebooks.currentWidget;
          if (!panel) {
            return;
          }
          try {
            await insertSearch(shared, panel, trans);
          } catch (error) {
            apputils.Notification.error(error instanceof Error ? error.message : String(error));
          }
        },
      });
      notebooks.currentChanged.connect(() => app.commands.notifyCommandChanged(INSERT));
      (palette as Palette | null)?.addItem({ command: INSERT, category: CATEGORY });
    },
  };
}

async function insertSearch(shared: Shared, panel: NotebookPanel, trans: Translation): Promise<void> {
  const { apputils } = shared.modules;
  const kernel = panel.sessionContext.session?.kernel;
  if (!kernel) {
    throw new Error(trans.__("This notebook has no kernel: start one, and run the cells that make a model."));
  }
  if (kernel.status === "busy") {
    apputils.Notification.info(trans.__("The kernel is busy. The form opens when it is free."), { autoClose: 4000 });
  }
  const form = new SearchForm(await choicesOf(kernel), trans, shared.settings.values);
  for (;;) {
    const body = widgetOf(shared, form.element);
    body.addClass("nbc-dialog");
    const insert = apputils.Dialog.okButton({ label: trans.__("Insert") });
    const run = apputils.Dialog.okButton({ label: trans.__("Insert and run") });
    const answer = await apputils.showDialog({
      title: trans.__("Insert a search"),
      body,
      buttons: [apputils.Dialog.cancelButton(), insert, run],
      defaultButton: 1,
    });
    if (!answer.button.accept) {
      return;
    }
    const runs = answer.button.label === trans.__("Insert and run");
    const progress = new Progress(shared, trans.__("The kernel looks at the model and writes the search. The first time this takes some seconds."));
    try {
      const written = await cellOf(kernel, form.request());
      if ("cell" in written) {
        if (runs) {
          progress.say(trans.__("The search starts. The first one in a kernel loads what it needs, which takes some seconds."));
        }
        await putCells(shared, panel, written.before ? [written.before, written.cell] : [written.cell], runs);
        return;
      }
      form.show(written.problem);
    } finally {
      progress.end();
    }
  }
}

// Says at once that something happens, and stays until it has.
class Progress {
  readonly #id: string;

  constructor(
    private readonly shared: Shared,
    text: string,
  ) {
    this.#id = shared.modules.apputils.Notification.emit(text, "in-progress", { autoClose: false });
  }

  say(text: string): void {
    this.shared.modules.apputils.Notification.update({ id: this.#id, message: text });
  }

  end(): void {
    this.shared.modules.apputils.Notification.dismiss(this.#id);
  }
}

// Inserts cells below the active one. If they are run, it waits until the last one shows something or has ended.
async function putCells(shared: Shared, panel: NotebookPanel, texts: string[], runs: boolean): Promise<void> {
  const { NotebookActions } = shared.modules.notebook;
  for (const text of texts) {
    NotebookActions.insertBelow(panel.content);
    const cell = panel.content.activeCell;
    cell?.model.sharedModel.setSource(text);
    if (runs) {
      const running = NotebookActions.run(panel.content, panel.sessionContext);
      await (text === texts.at(-1) && cell ? Promise.race([running, hasOutput(cell.node)]) : running);
    }
  }
}

function hasOutput(cell: HTMLElement): Promise<void> {
  return new Promise((resolve) => {
    const look = (): boolean => !cell.isConnected || cell.querySelector(".jp-OutputArea-child") !== null;
    const timer = setInterval(() => {
      if (look()) {
        clearInterval(timer);
        resolve();
      }
    }, LOOK_MILLISECONDS);
  });
}

function runningPlugin(shared: Shared): Plugin {
  const { modules, settings } = shared;
  return {
    id: "nbcompress:running",
    description: "Shows a search that ran in a notebook before the page was loaded.",
    autoStart: true,
    requires: [modules.notebook.INotebookTracker],
    optional: [modules.translation.ITranslator],
    activate: (app, tracker, translator) => {
      const trans = translation(shared, translator);
      const server = new StudyServer(app, modules.services.ServerConnection);
      const watch = (panel: NotebookPanel): void => void new RunningPanel(panel, server, settings, trans, modules);
      const notebooks = tracker as NotebookTracker;
      notebooks.forEach(watch);
      notebooks.widgetAdded.connect((_tracker, panel) => watch(panel));
    },
  };
}
