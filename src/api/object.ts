// What all objects have in common: identity, labels, spec and status, revision; and how lists of them are asked for.
import * as z from 'zod';

const nameRule = 'takes a-z, 0-9 and "-", and starts and ends with a letter or digit';

/** Names the letter that only looks as if it were allowed; nothing where there is none. */
function foreignLetter(name: string): string {
  const letter = /[^\0-\x7f]/u.exec(name)?.[0];
  if (letter === undefined) return '';
  const code = (letter.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0');
  return `; one character is U+${code}, which is not ASCII`;
}

/** Names are DNS labels: they become host names of guests and parts of file names. */
export const objectName = z
  .string()
  .max(63, 'is at most 63 characters long')
  .regex(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/, { error: ({ input }) => `${nameRule}${foreignLetter(String(input))}` })
  .describe(
    'Unique in its project: a-z, 0-9 and "-", at most 63 characters, starting and ending with a letter or digit',
  );

/** A reference to another object: its name in the same project, or its id. */
export const objectReference = z
  .string()
  .regex(
    /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/,
    'is the name (or id) of an object: a-z, 0-9 and "-", at most 63 characters',
  )
  .describe('Name, in the same project, or id');

export const labelKey = /^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$/;
export const labelValue = /^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$/;

/** Labels as in Kubernetes: short keys and values for selecting objects. */
export const labels = z
  .record(
    z
      .string()
      .regex(
        labelKey,
        'is a label key: letters, digits, "-", "_", ".", at most 63 characters, with an optional prefix and "/"',
      ),
    z.string().regex(labelValue, 'is a label value: letters, digits, "-", "_", ".", at most 63 characters'),
  )
  .refine((value) => Object.keys(value).length <= 64, 'takes at most 64 labels')
  .describe('Keys and values for selecting objects');

export const projectName = objectName.default('default').describe('Project the object belongs to');

export const timestamp = z.iso.datetime().describe('RFC 3339, UTC');

/** Fields of every object besides spec and status. */
export const metadata = {
  id: z.uuid().describe('UUIDv7, never reused'),
  name: objectName,
  project: objectName.describe('Project the object belongs to'),
  labels,
  revision: z
    .int()
    .positive()
    .describe('Changes whenever name, labels or spec change. A write carries the revision it was based on'),
  createdAt: timestamp,
} as const;

/** Body of a creation: name, project, labels, spec. */
export function creation<Spec extends z.core.$ZodType>(id: string, spec: Spec) {
  return z.strictObject({ name: objectName, project: projectName, labels: labels.default({}), spec }).meta({ id });
}

/** Body of an update: replaces labels and spec; refused when `revision` is stale. */
export function update<Spec extends z.core.$ZodType>(id: string, spec: Spec) {
  return z
    .strictObject({
      revision: metadata.revision
        .optional()
        .describe('Revision this change is based on. Without it the change is made whatever has changed meanwhile'),
      labels: labels.optional().describe('Replaces all labels; without it they stay'),
      spec,
    })
    .meta({ id });
}

/** Query of routes that address an object by name. */
export const inProject = z.strictObject({ project: projectName });

/** Query of every list. */
export const listQuery = z.strictObject({
  project: objectName.optional().describe('Only this project; without it, all'),
  selector: z.string().max(2000).optional().describe('Label selector: app=web,tier!=db,env in (prod,test),!legacy'),
  filter: z
    .string()
    .max(2000)
    .optional()
    .describe('Field filter: status.state=running,spec.memoryMib>=1024,name~web (all must hold)'),
  sort: z
    .string()
    .max(200)
    .optional()
    .describe('Field to sort by, "-" before it for descending: name, -createdAt, status.state. Default name'),
  limit: z.coerce.number<number | string>().int().min(1).max(500).default(100).describe('Objects a page, at most 500'),
  continue: z.string().max(2000).optional().describe('Token of the page before'),
});
export type ListQuery = z.output<typeof listQuery>;

/** One page of a list. */
export function page<Item extends z.core.$ZodType>(id: string, item: Item) {
  return z
    .object({
      items: z.array(item),
      total: z.int().nonnegative().describe('Objects that match, on all pages'),
      continue: z.string().nullable().describe('Give this to get the next page; null on the last'),
      revision: z.int().nonnegative().describe('Store revision of this page: resume the event stream from it'),
    })
    .meta({ id });
}

/** What an event or a task is about. */
export const subject = z
  .object({
    kind: z.enum([
      'node',
      'vm',
      'image',
      'volume',
      'network',
      'security-group',
      'address-set',
      'firewall',
      'template',
      'group',
      'profile',
      'instance-type',
      'task',
      'token',
      'server',
    ]),
    id: z.string(),
    name: z.string(),
    project: z.string(),
  })
  .meta({ id: 'Subject' });
export type Subject = z.output<typeof subject>;
