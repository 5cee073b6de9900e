// Writes src/schema.ts, the types and guards of a study's data, from the JSON schema of the Python package.
// With --check, compares instead and fails if src/schema.ts is not what the schema gives.
//
// The types are made by json-schema-to-typescript. The guards are made here, since the validators that ajv generates
// are 30 times as long, and every bundle holds them; the tests compare the guards with ajv.
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { compile } from "json-schema-to-typescript";

const SCHEMA = new URL("../nbcompress/panels/schema/study.v1.schema.json", import.meta.url);
const OUTPUT = new URL("src/schema.ts", import.meta.url);
const HEADER = `// Generated from nbcompress/panels/schema/study.v1.schema.json by generate.mjs: run \`npm run generate\`, do not edit.
// A guard accepts fields that the schema does not know, since newer versions of the package may add some.
`;
// Annotations of a schema that guard nothing.
const ANNOTATIONS = ["$schema", "title", "description", "$defs"];
const PLAIN = { string: "isString", number: "isNumber", integer: "isInteger", boolean: "isBoolean", null: "isNull" };

const pascal = (name) => name[0].toUpperCase() + name.slice(1);
const constant = (name) => `${name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}S`;

// Returns the schema's keywords that constrain; one that this generator does not know is an error, not a gap.
function constraints(schema, known) {
  const names = Object.keys(schema).filter((name) => !ANNOTATIONS.includes(name));
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new Error(`generate.mjs cannot make a guard of "${unknown}" in ${JSON.stringify(schema)}`);
  }
  return names;
}

// Returns the guard of a schema as an expression.
function guard(schema) {
  if ("$ref" in schema) {
    constraints(schema, ["$ref"]);
    return `is${pascal(schema.$ref.replace("#/$defs/", ""))}`;
  }
  if ("const" in schema || "enum" in schema) {
    constraints(schema, ["const", "enum"]);
    return `isOneOf(${JSON.stringify(schema.enum ?? [schema.const])})`;
  }
  if ("anyOf" in schema) {
    constraints(schema, ["anyOf"]);
    return either(schema.anyOf.map(guard));
  }
  if (Array.isArray(schema.type)) {
    constraints(schema, ["type"]);
    return either(schema.type.map((type) => PLAIN[type]));
  }
  if (schema.type === "array") {
    constraints(schema, ["type", "items", "minItems"]);
    return `isListOf(${[guard(schema.items), ...(schema.minItems ? [schema.minItems] : [])].join(", ")})`;
  }
  if (schema.type === "object") {
    constraints(schema, ["type", "required", "properties", "additionalProperties"]);
    if (schema.properties) {
      return `hasFields(${fields(schema)})`;
    }
    return typeof schema.additionalProperties === "object" ? `isMapOf(${guard(schema.additionalProperties)})` : "isObject";
  }
  constraints(schema, ["type", "minimum"]);
  if (schema.minimum !== undefined) {
    return `isAtLeast(${schema.minimum}, ${PLAIN[schema.type]})`;
  }
  return PLAIN[schema.type];
}

function either(guards) {
  return `isEither(${guards.join(", ")})`;
}

function fields(schema) {
  const required = new Set(schema.required);
  const lines = Object.entries(schema.properties).map(([name, part]) => {
    return `  ${name}: ${required.has(name) ? guard(part) : `isOptional(${guard(part)})`},\n`;
  });
  return `{\n${lines.join("")}}`;
}

// Returns the names of the definitions, each after those that it refers to.
function ordered(definitions) {
  const found = new Set();
  const visit = (name) => {
    for (const [, inner] of JSON.stringify(definitions[name]).matchAll(/"#\/\$defs\/(\w+)"/g)) {
      if (!found.has(inner)) {
        visit(inner);
      }
    }
    found.add(name);
  };
  Object.keys(definitions).forEach(visit);
  return [...found];
}

function guards(schema) {
  const parts = ordered(schema.$defs).map((name) => {
    const definition = schema.$defs[name];
    if (!definition.enum) {
      return `export const is${pascal(name)} = ${guard(definition)};\n`;
    }
    const values = `export const ${constant(name)} = ${JSON.stringify(definition.enum)} as const;\n`;
    return `${values}export const is${pascal(name)} = isOneOf(${constant(name)});\n`;
  });
  const study = `// The guard of each field of a study.\nexport const STUDY_FIELDS = ${fields(schema)};\n`;
  return [...parts, study].join("\n");
}

async function generated() {
  const schema = JSON.parse(await readFile(SCHEMA, "utf8"));
  const options = { bannerComment: "", additionalProperties: false, ignoreMinAndMaxItems: true, style: { printWidth: 120 } };
  const types = await compile({ ...structuredClone(schema), title: "Study" }, "Study", options);
  const code = guards(schema);
  const used = [...new Set(code.match(/\b(is|has)[A-Z]\w*(?=[(,)])/g))].filter((name) => !code.includes(`const ${name} =`));
  const imports = `import { ${used.sort().join(", ")} } from "./guard";\n`;
  return [HEADER, imports, types, code].join("\n");
}

const text = await generated();
if (!process.argv.includes("--check")) {
  await writeFile(OUTPUT, text);
} else if (text !== (await readFile(OUTPUT, "utf8").catch(() => ""))) {
  console.error(`${fileURLToPath(OUTPUT)} is not what the schema gives: run \`npm run generate\`.`);
  process.exitCode = 1;
}
