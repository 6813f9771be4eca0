// A plan as text: what would be made or changed, and each field that differs.
import type { Difference } from '../../lib/difference.ts';
import { formatPath, type Json } from '../../lib/field-path.ts';
import { escapeControls } from '../../lib/terminal-text.ts';
import type { Style } from '../output/style.ts';
import type { PlannedObject } from './plan.ts';

/** A value in a line: short, on one line, harmless. */
export function shortValue(value: Json): string {
  const text = typeof value === 'string' && /^[\w./:@+-]+( [\w./:@+-]+)*$/.test(value) ? value : JSON.stringify(value);
  const safe = escapeControls(text);
  return safe.length > 100 ? `${safe.slice(0, 99)}…` : safe;
}

/** One field that differs: "~ spec.cpu.count: 2 → 4". */
export function differenceLine({ path, before, after }: Difference, style: Style): string {
  const field = escapeControls(formatPath(path));
  const secret = /(^|\.)password$/.test(field);
  const show = (value: Json): string => (secret ? '(not shown)' : shortValue(value));
  if (before === undefined && after !== undefined) return style.green(`+ ${field}: ${show(after)}`);
  if (after === undefined && before !== undefined) return style.red(`- ${field}: ${show(before)}`);
  return `${style.yellow(`~ ${field}:`)} ${style.red(show(before ?? null))} → ${style.green(show(after ?? null))}`;
}

/** The fields of a new object that say something: not those that are empty. */
function isTelling({ after }: Difference): boolean {
  if (after === '' || after === undefined) return false;
  return !(typeof after === 'object' && after !== null && Object.keys(after).length === 0);
}

function isRecord(value: Json): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Differences with records opened, so that each line is one field. */
export function opened(difference: Difference): Difference[] {
  const { path, before, after } = difference;
  if (before === undefined && Array.isArray(after) && after.length > 0 && after.every((one) => isRecord(one))) {
    return after.flatMap((one, index) => {
      const name = isRecord(one) && typeof one['name'] === 'string' ? one['name'] : index;
      return opened({ path: [...path, name], before, after: one });
    });
  }
  const isOpen = (value: Json | undefined): value is { [key: string]: Json } =>
    typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length > 0;
  if (before === undefined && isOpen(after)) {
    return Object.entries(after).flatMap(([key, value]) => opened({ path: [...path, key], before, after: value }));
  }
  return [difference];
}

/** What would be done for one object, in lines. */
export function planLines(planned: PlannedObject, style: Style): string[] {
  const { manifest, action, changes } = planned;
  const name = style.bold(`${manifest.kind} ${manifest.name}`);
  switch (action) {
    case 'unchanged':
      return [`  ${name} is as it should be`];
    case 'create':
      return [
        `${style.green('+')} ${name} would be created`,
        ...changes
          .flatMap(opened)
          .filter(isTelling)
          .map((change) => `    ${differenceLine(change, style)}`),
      ];
    case 'update':
      return [
        `${style.yellow('~')} ${name} would be changed`,
        ...changes.map((change) => `    ${differenceLine(change, style)}`),
      ];
  }
}
