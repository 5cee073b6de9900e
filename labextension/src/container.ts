// The entry point for JupyterLab: a container in the protocol of module federation. It is written by hand because the
// extension has few modules. `init` receives the shared modules of the page, `get` returns ours.

import { MODULES, type LabModules } from "./lab";
import { mimeExtension } from "./mime";
import { plugins } from "./plugins";

type Factory = () => unknown;
type SharedScope = Record<string, Record<string, { get: () => Factory | Promise<Factory> }>>;

let shared: SharedScope = {};

async function sharedModule(name: string): Promise<Record<string, unknown>> {
  const version = Object.values(shared[name] ?? {})[0];
  if (!version) {
    throw new Error(`nbcompress needs ${name}, which this front end does not share.`);
  }
  return (await version.get())() as Record<string, unknown>;
}

async function labModules(): Promise<LabModules> {
  const entries = Object.entries(MODULES).map(async ([key, name]) => [key, await sharedModule(name)] as const);
  return Object.fromEntries(await Promise.all(entries)) as unknown as LabModules;
}

const EXPORTS: Record<string, () => Promise<unknown>> = {
  "./extension": async () => plugins(await labModules()),
  "./mimeExtension": async () => {
    const widgets = await sharedModule(MODULES.widgets);
    return mimeExtension(widgets["Widget"] as Parameters<typeof mimeExtension>[0]);
  },
};

const container = {
  init(scope: SharedScope): void {
    shared = scope;
  },
  async get(name: string): Promise<Factory> {
    const made = EXPORTS[name];
    if (!made) {
      throw new Error(`nbcompress has no module ${name}.`);
    }
    const value = await made();
    return () => ({ __esModule: true, default: value });
  },
};

const page = window as unknown as { _JUPYTERLAB?: Record<string, unknown> };
(page._JUPYTERLAB ??= {})["nbcompress"] = container;
