// `set`: changes fields of an object by key=value, checked against the contract before anything is sent.
import type { z } from 'zod';
import { contract } from '../api/contract.ts';
import { LodgeError, shorten } from '../api/errors.ts';
import { isSchema } from '../api/route.ts';
import { closestWord } from '../lib/closest-word.ts';
import { differences } from '../lib/difference.ts';
import {
  FieldPathError,
  formatPath,
  parsePath,
  valueAt,
  withoutValueAt,
  withValueAt,
  type Json,
  type PathPart,
} from '../lib/field-path.ts';
import { parseMib, QuantityError } from '../lib/quantity.ts';
import type { Session } from './connect/session.ts';
import { fieldNamesAt, issueText } from './schema-fields.ts';
import { usageError } from './usage-error.ts';

/** Nouns whose objects can be changed. */
export type ChangeableNoun =
  | 'vm'
  | 'image'
  | 'volume'
  | 'network'
  | 'securityGroup'
  | 'node'
  | 'profile'
  | 'instanceType'
  | 'template'
  | 'group';

/** What a change is made to. */
export interface Changeable {
  name: string;
  labels: Record<string, string>;
  spec: object;
  revision: number;
}

/** A change as it was written: which field, and its new value; undefined removes it. */
export interface FieldChange {
  path: PathPart[];
  text: string | undefined;
}

/** Reads "cpu.count=4", "labels.app=web", "disks.root.cache=none" and "cloudInit-" (removes). */
export function parseChange(word: string): FieldChange {
  const at = word.indexOf('=');
  const isRemoval = at === -1 && word.endsWith('-');
  if (at === -1 && !isRemoval) {
    throw usageError(`${shorten(word)} is not a change`, {
      hint: 'Write field=value to set a field, or field- to remove it: cpu.count=4, labels.app=web, cloudInit-',
    });
  }
  try {
    const path = parsePath(isRemoval ? word.slice(0, -1) : word.slice(0, at));
    // Fields are those of the spec; labels stand beside it. "spec.cpu.count" is understood as well.
    if (path[0] === 'spec' && path.length > 1) path.shift();
    return { path, text: isRemoval ? undefined : word.slice(at + 1) };
  } catch (failure) {
    if (failure instanceof FieldPathError) throw usageError(failure.message);
    throw failure;
  }
}

/**
 * The values that a text may mean, likeliest first: a size where the field is one, JSON (numbers, true, lists), or the
 * text itself. Which one it is, the schema decides.
 */
export function possibleValues(path: readonly PathPart[], text: string): Json[] {
  const values: Json[] = [];
  const last = path.at(-1);
  if (typeof last === 'string' && last.endsWith('Mib') && !/^\d+$/.test(text)) {
    try {
      values.push(parseMib(text, 'MiB'));
    } catch (failure) {
      if (!(failure instanceof QuantityError)) throw failure;
      throw usageError(`${formatPath(path)}: ${failure.message}`);
    }
  }
  try {
    values.push(JSON.parse(text) as Json);
  } catch {
    // Not JSON: the text is meant.
  }
  values.push(text);
  if (text.includes(',')) values.push(text.split(',').map((part) => part.trim()));
  else values.push([text]);
  return values;
}

/** What `update` of a noun takes. */
export function updateSchema(noun: ChangeableNoun): z.ZodType<{ labels?: Record<string, string>; spec: object }> {
  const { body } = contract[noun].update;
  if (!isSchema(body)) throw new LodgeError('internal', `${noun}.update has no schema`);
  return body;
}

/** Applies changes to labels and spec; each is tried with every value it may mean until the schema takes it. */
export function applyChanges(
  noun: ChangeableNoun,
  object: Changeable,
  changes: readonly FieldChange[],
): { labels: Record<string, string>; spec: object } {
  const schema = updateSchema(noun);
  let document: Json = JSON.parse(JSON.stringify({ labels: object.labels, spec: object.spec })) as Json;
  for (const change of changes) {
    const path = change.path[0] === 'labels' ? change.path : ['spec', ...change.path];
    try {
      document =
        change.text === undefined ? withoutValueAt(document, path) : setValue(schema, document, path, change.text);
    } catch (failure) {
      if (failure instanceof FieldPathError) throw usageError(failure.message);
      throw failure;
    }
  }
  const checked = schema.safeParse(document);
  if (!checked.success) throw invalidDocument(schema, checked.error, document);
  return document as unknown as { labels: Record<string, string>; spec: object };
}

function setValue(schema: z.ZodType, document: Json, path: readonly PathPart[], text: string): Json {
  const candidates = possibleValues(path, text).map((value) => withValueAt(document, path, value));
  const problems = candidates.map((candidate) => problemsAt(schema, candidate, path));
  const fitting = problems.findIndex((codes) => codes.length === 0);
  if (fitting !== -1) return candidates[fitting] ?? document;
  // None fits: a value of the right type that breaks a limit is what was meant, else the text itself.
  const ofRightType = problems.findIndex((codes) => !codes.includes('invalid_type'));
  return candidates[ofRightType === -1 ? Math.max(0, candidates.length - 2) : ofRightType] ?? document;
}

/** The codes of the schema's complaints about this field, what is below it, and whether it is known. */
function problemsAt(schema: z.ZodType, document: Json, path: readonly PathPart[]): string[] {
  const checked = schema.safeParse(document);
  if (checked.success) return [];
  const here = formatPath(indexed(document, path));
  return checked.error.issues
    .filter((issue) => {
      const there = formatPath(issue.path as PathPart[]);
      return there.startsWith(here) || (here.startsWith(there) && issue.code === 'unrecognized_keys');
    })
    .map((issue) => issue.code);
}

/** The path with names of list elements replaced by their positions, as a schema names them. */
function indexed(document: Json, path: readonly PathPart[]): PathPart[] {
  return path.map((part, depth) => {
    const parent = depth === 0 ? document : valueAt(document, path.slice(0, depth));
    if (typeof part === 'number' || !Array.isArray(parent)) return part;
    return parent.findIndex(
      (one) => typeof one === 'object' && one !== null && !Array.isArray(one) && one['name'] === part,
    );
  });
}

/** The schema's complaints as one error; a mistyped field gets a suggestion. */
export function invalidDocument(schema: z.ZodType, error: z.ZodError, document: Json): LodgeError {
  const fields = error.issues.map((issue) => {
    const path = issue.path as PathPart[];
    if (issue.code === 'unrecognized_keys') {
      const known = fieldNamesAt(schema, issue.path);
      const named = issue.keys.map((key) => {
        const near = closestWord(key, known);
        return `${key}${near === null ? '' : ` (did you mean ${near}?)`}`;
      });
      return { field: formatPath(path) || 'document', message: `has no field ${named.join(', ')}` };
    }
    const value = valueAt(document, path);
    const given = value === undefined ? '' : ` (given: ${shorten(value)})`;
    return { field: formatPath(path), message: `${issueText(issue)}${given}` };
  });
  return usageError(fields.length === 1 ? 'a field is not valid' : `${fields.length} fields are not valid`, {
    fields,
    hint: 'Nothing was changed. The fields are described at /docs of the daemon, and shown by -o yaml.',
  });
}

/**
 * Changes an object with its revision, so that somebody else's change in between is not lost. Null when the changes
 * change nothing.
 */
export async function changeObject<Item extends Changeable>(
  session: Session,
  noun: ChangeableNoun,
  object: Item,
  words: readonly string[],
  update: (body: { revision: number; labels: Record<string, string>; spec: never }) => Promise<Item>,
): Promise<Item | null> {
  const changed = applyChanges(noun, object, words.map(parseChange));
  const changedFields = differences(
    { labels: object.labels, spec: object.spec as Json },
    { labels: changed.labels, spec: changed.spec as Json },
  );
  if (changedFields.length === 0) {
    session.terminal.line(`${noun} ${object.name} has these values already; nothing was changed.`);
    return null;
  }
  return update({ revision: object.revision, labels: changed.labels, spec: changed.spec as never });
}
