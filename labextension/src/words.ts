// The texts of the study view in the language of JupyterLab. The panel below a cell is a script of its own, so the
// plugin leaves its translator with the page; where there is no JupyterLab, texts stay as they are.

export interface Translation {
  __(text: string, ...values: (string | number)[]): string;
  _n(single: string, plural: string, count: number, ...values: (string | number)[]): string;
}

// Stands in a text for an element that `around` puts there.
export const HERE = "\u0001";

// Fills %1, %2, ... as JupyterLab does.
const filled = (text: string, values: readonly (string | number)[]): string =>
  text.replace(/%(%|\d+)/g, (_, at: string) => (at === "%" ? at : String(values[Number(at) - 1])));

const UNTRANSLATED: Translation = {
  __: (text, ...values) => filled(text, values),
  _n: (single, plural, count, ...values) => filled(count === 1 ? single : plural, values),
};

const page = globalThis as { nbcompressTranslation?: Translation | undefined };
const given = (): Translation => page.nbcompressTranslation ?? UNTRANSLATED;

export const trans: Translation = {
  __: (text, ...values) => given().__(text, ...values),
  _n: (single, plural, count, ...values) => given()._n(single, plural, count, ...values),
};

export function useTranslation(translation: Translation | undefined): void {
  page.nbcompressTranslation = translation;
}

// Returns a sentence with an element at HERE, wherever a translation has put it.
export function around(sentence: string, element: Node): (Node | string)[] {
  const [before, after] = sentence.split(HERE);
  return [before ?? "", element, after ?? ""];
}
