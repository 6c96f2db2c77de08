// Every sentence stands in the catalogue: a text that somebody would read is found wherever else it is written.
import ts from "typescript";
import { expect, test } from "vitest";

const READ = ["label", "title", "description", "placeholder", "confirm", "about", "aria-label", "thumbLabel", "nothingFoundMessage"];
const CODE = /^(system-ui, |curl |from openai |import OpenAI|Bearer |Enter$|var\(|min\(|color-mix|--)/;
const SENTENCE = /[\w,.:;)] [A-Za-z(]|^[A-Z][a-z]/;
const TRANSPARENT = [
  ts.SyntaxKind.ConditionalExpression, ts.SyntaxKind.ParenthesizedExpression, ts.SyntaxKind.TemplateExpression, ts.SyntaxKind.TemplateSpan,
];
const JOINS = [ts.SyntaxKind.AmpersandAmpersandToken, ts.SyntaxKind.BarBarToken, ts.SyntaxKind.QuestionQuestionToken];

/** Where a value goes: up through choices between values. */
function goes(node: ts.Node): ts.Node {
  const up = node.parent;
  const through = TRANSPARENT.includes(up.kind) || (ts.isBinaryExpression(up) && JOINS.includes(up.operatorToken.kind));
  return through && !(ts.isConditionalExpression(up) && up.condition === node) ? goes(up) : up;
}

function shown(node: ts.Node, text: string): boolean {
  if (!/[A-Za-z]/.test(text) || CODE.test(text)) return false;
  const to = goes(node);
  if (ts.isJsxAttribute(to) || (ts.isJsxExpression(to) && ts.isJsxAttribute(to.parent))) {
    const attribute = ts.isJsxAttribute(to) ? to : (to.parent as ts.JsxAttribute);
    return READ.includes(attribute.name.getText()) || (ts.isJsxExpression(to) && SENTENCE.test(text));
  }
  if (ts.isJsxExpression(to)) return true;
  if (ts.isArrowFunction(to)) return ts.isPropertyAssignment(to.parent) && to.parent.name.getText() === "cell";
  if (ts.isPropertyAssignment(to) && to.name.getText() === "label") return true;
  if (ts.isLiteralTypeNode(to) || ts.isImportDeclaration(to) || (ts.isPropertyAssignment(to) && to.name === node)) return false;
  if (ts.isElementAccessExpression(to) || (ts.isBinaryExpression(to) && to.right === node)) return false;
  return SENTENCE.test(text);
}

/** The texts of a source that would be read on the screen. */
function spoken(source: string): string[] {
  const found: string[] = [];
  const look = (node: ts.Node) => {
    if (ts.isJsxText(node) && /[A-Za-z]/.test(node.text)) found.push(node.text.trim());
    if (ts.isStringLiteralLike(node) && shown(node, node.text)) found.push(node.text);
    if (ts.isTemplateExpression(node)) {
      const parts = [node.head, ...node.templateSpans.map((span) => span.literal)].map((part) => part.text);
      if (!CODE.test(node.head.text) && parts.some((part) => /^[^/]*[A-Za-z]{2}/.test(part)) && shown(node, parts.join(" · "))) found.push(parts.join("…"));
    }
    ts.forEachChild(node, look);
  };
  look(ts.createSourceFile("page.tsx", source, ts.ScriptTarget.Latest, true, ts.ScriptKind.TSX));
  return found;
}

test("a text outside of the catalogue is found", () => {
  expect(spoken('const a = <b>Hello</b>; const c = <i title="No">{d ? "yes" : e}</i>;')).toEqual(["Hello", "No", "yes"]);
  expect(spoken("const a = () => { throw new Error(`No ${b} here`); };")).toEqual(["No … here"]);
  expect(spoken('import x from "a b"; type T = S["Key"]; const p = <a href="/x" className="a b">{t.go}</a>; if (k === "Enter") x("day");')).toEqual([]);
});

const sources = Object.entries(import.meta.glob<string>("./**/*.{ts,tsx}", { query: "?raw", import: "default", eager: true })).filter(
  ([name]) => !/\.test\.|schema\.d\.|^\.\/words\.tsx$/.test(name),
);

test.each(sources)("%s says nothing of its own", (_, source) => {
  expect(spoken(source)).toEqual([]);
});
