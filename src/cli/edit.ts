// The verb `edit`: an object as YAML in an editor. What is saved is checked against the contract; mistakes open the editor
// again with the complaints at its top; changes of others in between are kept unless they touch the same fields.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LodgeError } from '../api/errors.ts';
import { differences } from '../lib/difference.ts';
import { type Json } from '../lib/field-path.ts';
import { rebase } from '../client/rebase.ts';
import type { Session } from './connect/session.ts';
import { invalidDocument, updateSchema, type Changeable, type ChangeableNoun } from './set.ts';
import { usageError } from './usage-error.ts';
import { run } from './vm/ssh.ts';

interface Editable {
  labels: Record<string, string>;
  spec: object;
}

/** An object that is edited. */
export interface Edited<Item extends Changeable> {
  noun: ChangeableNoun;
  /** As messages call it: VM. */
  label: string;
  name: string;
  read: () => Promise<Item>;
  update: (body: { revision: number; labels: Record<string, string>; spec: object }) => Promise<Item>;
}

/** Opens the editor and writes what was saved; null when nothing was changed. */
export async function editObject<Item extends Changeable>(
  session: Session,
  definition: Edited<Item>,
): Promise<Item | null> {
  const { name, label } = definition;
  if (!session.terminal.canAsk) {
    throw usageError('an editor needs a terminal', {
      hint: `In a script use lodge ${definition.noun.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} set, or lodge apply.`,
    });
  }
  const before = await definition.read();
  const original = editableOf(before);
  const { stringify } = await import('yaml');
  const body = stringify(original, { lineWidth: 0 });
  const folder = await mkdtemp(join(tmpdir(), 'lodge-edit-'));
  const path = join(folder, `${name}.yaml`);
  let isKept = false;
  try {
    let edited: Editable | null;
    try {
      edited = await editUntilValid(path, definition, original, body);
      if (edited === null) {
        session.terminal.line(`${label} ${name} is as it was; nothing was changed.`);
        return null;
      }
      return await save(session, definition, before, edited);
    } catch (failure) {
      // What was typed must not be lost; what was never changed is no loss.
      isKept = withoutHeader(await readFile(path, 'utf8').catch(() => body)) !== body;
      if (isKept) session.terminal.note(`What you wrote is kept in ${path}.`);
      throw failure;
    }
  } finally {
    if (!isKept) await rm(folder, { recursive: true, force: true });
  }
}

/** What can be edited of an object: not what Lodge writes into its spec itself. */
function editableOf({ labels, spec }: Changeable): Editable {
  const { inherited: _written, ...rest } = spec as { inherited?: unknown };
  return { labels, spec: rest };
}

/** Opens the editor until what is saved is valid; null when nothing was changed. */
async function editUntilValid(
  path: string,
  { noun, label, name }: Pick<Edited<Changeable>, 'noun' | 'label' | 'name'>,
  original: Editable,
  body: string,
): Promise<Editable | null> {
  const { parse } = await import('yaml');
  let complaints: string[] = [];
  let text = body;
  for (;;) {
    await writeFile(path, `${header(`${label} ${name}`, complaints)}${text}`, { mode: 0o600 });
    const [program = 'vi', ...args] = (process.env['VISUAL'] ?? process.env['EDITOR'] ?? 'vi')
      .split(/\s+/)
      .filter(Boolean);
    const code = await run(program, [...args, path]);
    if (code !== 0) throw usageError(`the editor ${program} ended with code ${code}; nothing was changed`);
    const saved = withoutHeader(await readFile(path, 'utf8'));
    if (saved.trim() === '') return null;
    // Saved as it was opened after a complaint: whoever gives up must get out.
    if (saved === text && complaints.length > 0) {
      throw usageError('the document is still not valid; nothing was changed');
    }
    text = saved;
    try {
      const document = parse(saved) as Json;
      const schema = updateSchema(noun);
      const checked = schema.safeParse(document);
      if (!checked.success) throw invalidDocument(schema, checked.error, document);
      const edited = document as unknown as Editable;
      return differences(original as unknown as Json, { labels: edited.labels ?? {}, spec: edited.spec as Json })
        .length === 0
        ? null
        : { labels: edited.labels ?? {}, spec: edited.spec };
    } catch (failure) {
      complaints = complaintsOf(failure);
    }
  }
}

function complaintsOf(failure: unknown): string[] {
  if (!(failure instanceof Error)) return [String(failure)];
  const fields = failure instanceof LodgeError ? (failure.fields ?? []) : [];
  return fields.length > 0 ? fields.map(({ field, message }) => `${field}: ${message}`) : failure.message.split('\n');
}

const headerMark = '#|';

function header(name: string, complaints: readonly string[]): string {
  const lines = [
    `${name}: change spec and labels, save, and leave the editor. An empty file changes nothing.`,
    ...(complaints.length === 0 ? [] : ['', 'This is not valid yet:', ...complaints.map((line) => `  ${line}`)]),
  ];
  return `${lines.map((line) => `${headerMark} ${line}`.trimEnd()).join('\n')}\n`;
}

function withoutHeader(text: string): string {
  return text
    .split('\n')
    .filter((line) => !line.startsWith(headerMark))
    .join('\n');
}

/** Writes the changes; when somebody else changed the object meanwhile, onto what it is now, unless both changed the same. */
async function save<Item extends Changeable>(
  session: Session,
  { label, name, read, update }: Edited<Item>,
  before: Item,
  edited: Editable,
): Promise<Item> {
  try {
    return await update({ revision: before.revision, ...edited });
  } catch (failure) {
    if (!(failure instanceof LodgeError) || failure.code !== 'revision_conflict') throw failure;
    const now = await read();
    const merged = rebase(asJson(editableOf(before)), asJson(edited), asJson(editableOf(now)));
    if ('conflicts' in merged) {
      throw new LodgeError(
        'revision_conflict',
        `somebody else changed ${label} ${name} meanwhile, in the same fields: ${merged.conflicts.join(', ')}`,
        { hint: 'Look at it (show -o yaml) and edit it again.' },
      );
    }
    session.terminal.note('Somebody else changed other fields meanwhile; these changes are kept.');
    return update({ revision: now.revision, ...(merged.document as unknown as Editable) });
  }
}

function asJson(editable: Editable): Json {
  return editable as unknown as Json;
}
