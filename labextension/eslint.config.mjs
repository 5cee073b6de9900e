// What tsc does not find: promises that nobody waits for, values of type any, and texts that miss the translator.
import tseslint from "typescript-eslint";

const WORDS = /[A-Za-z]{2,} [a-z]{2,}/;
// Not shown, or not in the language of the user.
const HIDDEN = ["class", "description", "svgstr"];

function isTranslated(node) {
  for (let at = node; at; at = at.parent) {
    if (at.type === "CallExpression" && /(\.(__|_n)|^console\.\w+)$/.test(nameOf(at.callee))) {
      return true;
    }
    if (at.type === "Property" && HIDDEN.includes(at.key.name)) {
      return true;
    }
    // An error of the loader goes to the console.
    if (at.type === "NewExpression" && at.callee.name === "Error") {
      return true;
    }
    if (at.type === "ImportDeclaration" || at.type.startsWith("TS")) {
      return true;
    }
  }
  return false;
}

function nameOf({ object, property, name }) {
  return object && property ? `${nameOf(object)}.${property.name}` : (name ?? "");
}

const translated = {
  create: (context) => {
    const check = (node, text) => {
      if (WORDS.test(text) && !/^(nbc-|[.<])/.test(text) && !isTranslated(node)) {
        context.report({ node, message: "A text for the user is the argument of trans.__ or trans._n." });
      }
    };
    return {
      Literal: (node) => typeof node.value === "string" && check(node, node.value),
      TemplateLiteral: (node) => check(node, node.quasis.map((part) => part.value.cooked).join("0")),
    };
  },
};

export default tseslint.config(
  { ignores: ["lib/", "src/schema.ts"] },
  ...tseslint.configs.recommended,
  { rules: { "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_", destructuredArrayIgnorePattern: "^_" }] } },
  {
    files: ["src/**/*.ts"],
    ignores: ["src/*styles.ts"],
    extends: [...tseslint.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    plugins: { nbcompress: { rules: { translated } } },
    rules: { "nbcompress/translated": "error" },
  },
);
