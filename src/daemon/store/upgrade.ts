// Brings what an earlier Lodge kept into today's form, once, before anything is read: fields that have come since get
// their defaults.
//
// Promises:
// - A value that does not fit today's form is left as it is, and the log says which and why: nothing is lost.
// - It can be interrupted anywhere and done again: the form is noted last.
// - Where the form is still the same nothing is read but the note.
import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import * as z from 'zod';
import { listAll, type Log } from './informer.ts';
import { type KeyValue, type Store } from './store.ts';

/** How the values under a prefix are brought into today's form. */
export interface RecordForm {
  prefix: string;
  /** The form as data; where it is another than at the last start, the values are looked at. */
  schema: z.ZodType;
  /** The value in today's form. Throws where it can't be brought into it. */
  complete: (value: unknown) => unknown;
}

const noteKey = '/lodge/flags/record-form';

/** Resolves to the number of values that were changed. */
export async function upgradeRecords(store: Store, forms: readonly RecordForm[], log: Log): Promise<number> {
  const form = digest(forms);
  const note = await store.get(noteKey);
  if (note?.value === form) return 0;
  let changed = 0;
  for (const { prefix, complete } of forms) {
    const { items } = await listAll(store, prefix, (item) => outdated(item, complete, log));
    for (const item of items) {
      if (item === null) continue;
      const { key, value, modRevision } = item;
      const result = await store.transact({
        compare: [{ key, modRevision }],
        success: [{ put: key, value }],
      });
      if (result.succeeded) changed += 1;
    }
  }
  await store.transact({ success: [{ put: noteKey, value: form }] });
  if (changed > 0) log.info({ changed }, 'what an earlier version kept was brought into the form of this one');
  return changed;
}

function outdated(
  { key, value, modRevision }: KeyValue,
  complete: RecordForm['complete'],
  log: Log,
): { key: string; value: string; modRevision: number } | null {
  try {
    const before: unknown = JSON.parse(value);
    const after: unknown = JSON.parse(JSON.stringify(complete(before)));
    return isDeepStrictEqual(before, after) ? null : { key, value: JSON.stringify(after), modRevision };
  } catch (error) {
    log.warn({ err: error, key }, 'a record is not in the form of this version, and is left as it is');
    return null;
  }
}

/** The same for the same forms, whichever process asks. In one conversion, as most of them have parts in common. */
function digest(forms: readonly RecordForm[]): string {
  const all = z.object(Object.fromEntries(forms.map(({ prefix, schema }) => [prefix, schema])));
  const text = JSON.stringify(z.toJSONSchema(all, { unrepresentable: 'any', io: 'output' }));
  return createHash('sha256').update(text).digest('hex');
}
