// Why a prompt was scored as it was: the features that moved the score, and the known requests most alike.
import { Text } from "@mantine/core";
import type { Schemas } from "../api/client";
import { percent } from "../format";
import { words } from "../words";

const t = words.explained;

export function Explained({ known }: { known: Schemas["Explanation"] }) {
  return (
    <>
      <Text size="sm" mt="xs">{t.whatMovedTheScore(known.effects.map((one) => `${one.feature} ${one.share >= 0 ? "+" : "−"}${percent(Math.abs(one.share), 1)}`).join(", "))}</Text>
      <Text size="sm" mt="xs">{t.knownRequestsThatAreMost}</Text>
      {known.examples.map((one) => (
        <Text size="xs" c="dimmed" key={one.text}>{t.alikeExpectedGain(percent(one.similarity, 1), one.text, one.kind, one.gain.toFixed(2))}</Text>
      ))}
    </>
  );
}
