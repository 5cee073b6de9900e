// What this extension uses of JupyterLab, as types. The modules themselves come from the page when it loads us.

import type { Widget } from "@lumino/widgets";
import type { Translation } from "./words";

export interface Signal<T> {
  connect(slot: (sender: unknown, value: T) => void): boolean;
  disconnect(slot: (sender: unknown, value: T) => void): boolean;
}

export interface CommandOptions {
  label?: string | ((args: Record<string, unknown>) => string);
  caption?: string;
  icon?: unknown;
  isEnabled?: () => boolean;
  isVisible?: () => boolean;
  execute: (args: Record<string, unknown>) => unknown;
}

export interface Application {
  readonly commands: {
    addCommand(id: string, options: CommandOptions): unknown;
    execute(id: string, args?: Record<string, unknown>): Promise<unknown>;
    hasCommand(id: string): boolean;
    notifyCommandChanged(id?: string): void;
  };
  readonly shell: {
    add(widget: Widget, area: string, options?: Record<string, unknown>): void;
    activateById(id: string): void;
    currentWidget: Widget | null;
  };
  readonly restored: Promise<unknown>;
  readonly serviceManager: {
    readonly serverSettings: { baseUrl: string };
    readonly contents: { localPath(path: string): string };
  };
  readonly docRegistry: {
    addFileType(type: Record<string, unknown>): unknown;
    getModelFactory(name: string): object | undefined;
    addModelFactory(factory: object): unknown;
    addWidgetFactory(factory: object): unknown;
  };
}

export interface Kernel {
  readonly id: string;
  readonly status: string;
  interrupt(): Promise<void>;
  requestExecute(content: Record<string, unknown>): { done: Promise<{ content: Record<string, unknown> }> };
}

export interface NotebookPanel extends Widget {
  readonly context: { path: string; sessionContext: { ready: Promise<void>; session: { kernel: Kernel | null } | null; kernelChanged: Signal<unknown> } };
  readonly content: Widget & {
    activeCellIndex: number;
    activeCell: { node: HTMLElement; model: { sharedModel: { setSource(text: string): void; getSource(): string }; type: string } } | null;
    model: object | null;
  };
  readonly contentHeader: Widget & { addWidget(widget: Widget): void };
  readonly sessionContext: NotebookPanel["context"]["sessionContext"];
}

export interface NotebookTracker {
  readonly currentWidget: NotebookPanel | null;
  readonly widgetAdded: Signal<NotebookPanel>;
  readonly currentChanged: Signal<NotebookPanel | null>;
  forEach(visit: (panel: NotebookPanel) => void): void;
}

export interface SettingsStore {
  readonly composite: Record<string, unknown>;
  readonly changed: Signal<unknown>;
}

export interface MainAreaWidget extends Widget {
  readonly content: Widget;
}

// The shared modules, each with the names that are used of it.
export interface LabModules {
  application: { ILayoutRestorer: unknown };
  apputils: {
    ICommandPalette: unknown;
    MainAreaWidget: new (options: { content: Widget }) => MainAreaWidget;
    WidgetTracker: new (options: { namespace: string }) => {
      add(widget: Widget): Promise<void>;
      forEach(visit: (widget: MainAreaWidget) => void): void;
      save(widget: Widget): Promise<void>;
    };
    Dialog: { cancelButton(options?: object): object; okButton(options?: object): object; warnButton(options?: object): object };
    showDialog(options: object): Promise<{ button: { accept: boolean; label: string }; value: unknown }>;
    Notification: {
      success(text: string, options?: object): string;
      error(text: string, options?: object): string;
      info(text: string, options?: object): string;
      emit(text: string, type: string, options?: object): string;
      update(options: object): boolean;
      dismiss(id?: string): void;
    };
  };
  services: {
    ServerConnection: {
      makeRequest(url: string, init: RequestInit, settings: unknown): Promise<Response>;
    };
  };
  notebook: {
    INotebookTracker: unknown;
    NotebookActions: { insertBelow(notebook: unknown): void; run(notebook: unknown, context: unknown): Promise<boolean> };
  };
  filebrowser: { IDefaultFileBrowser: unknown };
  settingregistry: { ISettingRegistry: unknown };
  translation: { ITranslator: unknown; nullTranslator: { load(domain: string): Translation } };
  ui: { LabIcon: new (options: { name: string; svgstr: string }) => unknown };
  widgets: { Widget: new (options?: Widget.IOptions) => Widget };
}

// The name of the module that each entry comes from.
export const MODULES: Record<keyof LabModules, string> = {
  application: "@jupyterlab/application",
  apputils: "@jupyterlab/apputils",
  services: "@jupyterlab/services",
  notebook: "@jupyterlab/notebook",
  filebrowser: "@jupyterlab/filebrowser",
  settingregistry: "@jupyterlab/settingregistry",
  translation: "@jupyterlab/translation",
  ui: "@jupyterlab/ui-components",
  widgets: "@lumino/widgets",
};

export interface Plugin {
  id: string;
  description: string;
  autoStart: boolean;
  requires?: unknown[];
  optional?: unknown[];
  activate(app: Application, ...services: unknown[]): unknown;
}
