// Bundles the study view twice: for the live panel and the page of a report, and for JupyterLab.
// With --tests, bundles the tests instead, so that any Node can run them.
import { createHash } from "node:crypto";
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const common = { absWorkingDir: here, bundle: true, target: "es2022", charset: "utf8", legalComments: "none", logLevel: "warning" };

// esbuild leaves the text of template strings as it is, so style sheets are made small here.
const styleSheets = {
  name: "style sheets",
  setup(build) {
    build.onLoad({ filter: /styles\.ts$/ }, async ({ path }) => {
      const source = await readFile(path, "utf8");
      const [, name, text] = /export const (\w+) = `\n([^`]*)`;/.exec(source);
      const { code } = await esbuild.transform(text, { loader: "css", minify: true, target: "chrome123" });
      return { contents: `export const ${name} = ${JSON.stringify(code)};`, loader: "ts" };
    });
  },
};

async function bundled(entry, format) {
  const result = await esbuild.build({ ...common, entryPoints: [entry], format, minify: true, write: false, plugins: [styleSheets] });
  return result.outputFiles[0].text;
}

async function buildTests() {
  const tests = (await readdir(join(here, "tests"))).filter((name) => name.endsWith(".test.ts"));
  await rm(join(here, "lib/tests"), { recursive: true, force: true });
  await esbuild.build({
    ...common,
    entryPoints: tests.map((name) => `tests/${name}`),
    outdir: "lib/tests",
    outExtension: { ".js": ".mjs" },
    format: "esm",
    platform: "node",
    packages: "external",
    sourcemap: "inline",
  });
}

async function buildPanel() {
  const folder = join(here, "../nbcompress/panels/static");
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "panel.js"), await bundled("src/panel.ts", "esm"));
}

async function buildExtension() {
  const description = JSON.parse(await readFile(join(here, "package.json"), "utf8"));
  const folder = join(here, description.jupyterlab.outputDir);
  const entry = await bundled("src/container.ts", "iife");
  // JupyterLab caches by name, so the name follows the content.
  const load = `static/remoteEntry.${createHash("sha256").update(entry).digest("hex").slice(0, 20)}.js`;
  await rm(folder, { recursive: true, force: true });
  await mkdir(join(folder, "static"), { recursive: true });
  await writeFile(join(folder, load), entry);
  // JupyterLab's server looks for the schema of a setting under the name of the extension.
  await cp(join(here, description.jupyterlab.schemaDir), join(folder, "schemas", description.name), { recursive: true });
  const { name, version, description: text, license } = description;
  const jupyterlab = { ...description.jupyterlab, _build: { load, extension: "./extension", mimeExtension: "./mimeExtension" } };
  const shipped = { name, version, description: text, license, jupyterlab };
  await writeFile(join(folder, "package.json"), JSON.stringify(shipped, null, 2) + "\n");
}

if (process.argv.includes("--tests")) {
  await buildTests();
} else {
  await Promise.all([buildPanel(), buildExtension()]);
}
