// Requests to our part of the Jupyter server.

import { hasFields, isListOf, isObject, isString } from "./guard";
import type { Application, LabModules } from "./lab";
import { readStudy, type Reading } from "./data";
import { trans } from "./words";

// One study in a list.
export interface Line {
  name: string;
  label: string;
  path: string;
  // The kernel by whose permission a file outside of the root is read.
  kernel: string | null;
  // The kernels that search the study.
  kernels: string[];
  state: "running" | "ended" | "unknown";
  trials: number;
  done: number;
  wanted: number | null;
  counts: Record<string, number>;
  best: { number: number; values: Record<string, number | null> } | null;
  ending: string | null;
  ours: boolean;
}

export interface Listing {
  studies: Line[];
  problems: { path: string; problem: string }[];
  complete: boolean;
}

export interface Source {
  path: string;
  kernel: string | null;
  study: string | null;
}

// What a file of a compressed model holds.
export interface ModelFile {
  title: string;
  facts: [string, string][];
  columns: string[];
  rows: string[][];
  notes: string[];
}

export class RequestFailed extends Error {
  constructor(
    readonly status: number,
    text: string,
  ) {
    super(text);
  }
}

const isLine = hasFields({ name: isString, path: isString, state: isString });
const isListing = hasFields({ studies: isListOf(isLine) });

export class StudyServer {
  readonly #hashes = new Map<string, string>();

  constructor(
    private readonly app: Application,
    private readonly connection: LabModules["services"]["ServerConnection"],
  ) {}

  // All studies, or those of one file.
  async list(file: string | null = null): Promise<Listing> {
    const data = await this.#json("studies", file === null ? {} : { file });
    if (!isListing(data)) {
      throw new RequestFailed(0, trans.__("The server answered with something else than a list of studies."));
    }
    const { studies, problems, complete } = data as Listing;
    return { studies: studies.map(completeLine), problems: problems ?? [], complete: complete !== false };
  }

  // One study; null if it is as it was when the same view asked last.
  async study(source: Source, asker: string): Promise<Reading | null> {
    const key = `${asker} ${JSON.stringify(source)}`;
    const hash = this.#hashes.get(key);
    const answer = await this.#ask("studies", parameters(source), { headers: hash ? { "If-None-Match": hash } : {} });
    if (answer.status === 304) {
      return null;
    }
    const tag = answer.headers.get("Etag");
    if (tag) {
      this.#hashes.set(key, tag);
    }
    return readStudy(await answer.json());
  }

  // Forgets what a view has asked for, so that it is sent again.
  forget(asker: string): void {
    [...this.#hashes.keys()].filter((key) => key.startsWith(`${asker} `)).forEach((key) => this.#hashes.delete(key));
  }

  async code(source: Source, shown: string): Promise<string> {
    const data = await this.#json("studies", { ...parameters(source), code: "1", shown });
    return isObject(data) && typeof data["code"] === "string" ? data["code"] : "";
  }

  async report(source: Source): Promise<Blob> {
    return (await this.#ask("report", parameters(source))).blob();
  }

  async model(path: string): Promise<ModelFile> {
    return (await this.#json("model", { path })) as ModelFile;
  }

  // Asks for the token with which a study can be deleted as it is now.
  async deletionToken(source: Source): Promise<{ token: string; trials: number }> {
    return (await this.#post("delete", { path: source.path, study: source.study })) as { token: string; trials: number };
  }

  async delete(source: Source, token: string): Promise<void> {
    await this.#post("delete", { path: source.path, study: source.study, token });
  }

  async #post(name: string, body: object): Promise<unknown> {
    return (await this.#ask(name, {}, { method: "POST", body: JSON.stringify(body) })).json();
  }

  async #json(name: string, query: Record<string, string>): Promise<unknown> {
    return (await this.#ask(name, query)).json();
  }

  async #ask(name: string, query: Record<string, string>, init: RequestInit = {}): Promise<Response> {
    const settings = this.app.serviceManager.serverSettings;
    const words = new URLSearchParams(query).toString();
    const url = `${settings.baseUrl}nbcompress/${name}${words ? `?${words}` : ""}`;
    const answer = await this.connection.makeRequest(url, init, settings);
    if (!answer.ok && answer.status !== 304) {
      throw new RequestFailed(answer.status, await messageOf(answer));
    }
    return answer;
  }
}

function parameters(source: Source): Record<string, string> {
  return {
    path: source.path,
    ...(source.study === null ? {} : { study: source.study }),
    ...(source.kernel === null ? {} : { kernel: source.kernel }),
  };
}

// A study in a database with a server has no more than its name.
function completeLine(line: Line): Line {
  const empty = { label: line.name, kernel: null, kernels: [], trials: 0, done: 0, wanted: null, counts: {}, best: null, ending: null, ours: true };
  return { ...empty, ...line };
}

async function messageOf(answer: Response): Promise<string> {
  try {
    const data: unknown = await answer.json();
    return isObject(data) && typeof data["message"] === "string" ? data["message"] : answer.statusText;
  } catch {
    return answer.statusText;
  }
}
