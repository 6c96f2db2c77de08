/** A unified diff; what it means stands in the signs, the colours only repeat them. */
import { words } from "../words";

const t = words.diff;
export function Diff({ text }: { text: string }) {
  return (
    <pre className="diff" tabIndex={0} aria-label={t.whatChanges}>
      {text.split("\n").slice(2).map((line, at) => (
        <span key={at} className={line.startsWith("+") ? "more" : line.startsWith("-") ? "less" : undefined}>{line || " "}</span>
      ))}
    </pre>
  );
}
