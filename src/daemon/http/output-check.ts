// Holds answers to the contract while developing and testing: in production it would cost three times the time of a
// list. A handler that answers with what the contract doesn't have leaks it; one that leaves something out breaks clients.
import * as z from 'zod';
import type { Schema } from '../../api/route.ts';

/** Throws when an answer isn't what its schema says, or has fields that the schema doesn't have. */
export function checkOutput(schema: Schema, answer: unknown, routeId: string): void {
  // What the client gets is the JSON of it.
  const sent: unknown = JSON.parse(JSON.stringify(answer) ?? 'null');
  const result = z.safeParse(schema, sent);
  if (!result.success) {
    throw new Error(`${routeId} answered with what the contract doesn't have: ${z.prettifyError(result.error)}`);
  }
  const extra = undeclared(sent, result.data, '');
  if (extra.length > 0)
    throw new Error(`${routeId} answered with fields the contract doesn't have: ${extra.join(', ')}`);
}

/** Paths in `sent` that validation removed. */
function undeclared(sent: unknown, kept: unknown, path: string): string[] {
  if (Array.isArray(sent)) {
    const list = Array.isArray(kept) ? (kept as unknown[]) : [];
    return sent.flatMap((item, index) => undeclared(item, list[index], `${path}[${index}]`));
  }
  if (typeof sent !== 'object' || sent === null) return [];
  if (typeof kept !== 'object' || kept === null) return [path];
  return Object.entries(sent).flatMap(([key, value]) =>
    Object.hasOwn(kept, key)
      ? undeclared(value, (kept as Record<string, unknown>)[key], path === '' ? key : `${path}.${key}`)
      : [path === '' ? key : `${path}.${key}`],
  );
}
