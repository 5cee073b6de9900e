// The entry point for JupyterLab: a container in the protocol of module federation. It is written by hand because the
// extension has one module and needs one class of JupyterLab. `init` receives the shared modules, `get` returns ours.

import { mimeExtension } from "./mime";

type Factory = () => unknown;
type SharedScope = Record<string, Record<string, { get: () => Factory | Promise<Factory> }>>;

const WIDGETS = "@lumino/widgets";
let shared: SharedScope = {};

async function sharedModule(name: string): Promise<Record<string, unknown>> {
  const version = Object.values(shared[name] ?? {})[0];
  if (!version) {
    throw new Error(`nbcompress needs ${name}, which this front end does not share.`);
  }
  return (await version.get())() as Record<string, unknown>;
}

const container = {
  init(scope: SharedScope): void {
    shared = scope;
  },
  async get(name: string): Promise<Factory> {
    if (name !== "./mimeExtension") {
      throw new Error(`nbcompress has no module ${name}.`);
    }
    const widgets = await sharedModule(WIDGETS);
    const plugin = mimeExtension(widgets["Widget"] as Parameters<typeof mimeExtension>[0]);
    return () => ({ __esModule: true, default: plugin });
  },
};

const page = window as unknown as { _JUPYTERLAB?: Record<string, unknown> };
(page._JUPYTERLAB ??= {})["nbcompress"] = container;
