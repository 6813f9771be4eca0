// The fields that a schema of the contract knows, by path: for suggestions and completion.
import type * as z from 'zod';

/** What wraps a schema without changing its fields. */
function unwrapped(schema: z.core.$ZodType): z.core.$ZodType {
  let current = schema;
  for (;;) {
    const definition = current._zod.def as { innerType?: z.core.$ZodType };
    if (definition.innerType === undefined) return current;
    current = definition.innerType;
  }
}

/** The schema of the field at a path; null where the schema has no such field. List positions are numbers. */
export function schemaAt(schema: z.core.$ZodType, path: readonly PropertyKey[]): z.core.$ZodType | null {
  const here = unwrapped(schema);
  const [part, ...rest] = path;
  if (part === undefined) return here;
  const definition = here._zod.def as {
    type: string;
    shape?: Record<string, z.core.$ZodType>;
    element?: z.core.$ZodType;
    valueType?: z.core.$ZodType;
    options?: readonly z.core.$ZodType[];
  };
  if (definition.options) {
    for (const option of definition.options) {
      const found = schemaAt(option, path);
      if (found) return found;
    }
    return null;
  }
  const next =
    definition.element ??
    definition.valueType ??
    (definition.shape && Object.hasOwn(definition.shape, part) ? definition.shape[String(part)] : undefined);
  return next ? schemaAt(next, rest) : null;
}

/** The values that a field of a fixed set takes. */
export function choicesAt(schema: z.core.$ZodType, path: readonly PropertyKey[]): string[] {
  const found = schemaAt(schema, path);
  const entries = (found?._zod.def as { entries?: Record<string, string> } | undefined)?.entries ?? {};
  return Object.values(entries);
}

/** A complaint of a schema in words for people; what is missing is said to be missing. */
export function issueText(issue: z.core.$ZodIssue): string {
  const missing = /^Invalid input: expected (\w+), received undefined$/.exec(issue.message);
  if (missing) return `is missing (${missing[1]})`;
  return issue.message
    .replace(/^Too small: expected number to be >=?(\S+)$/, 'is at least $1')
    .replace(/^Too big: expected number to be <=?(\S+)$/, 'is at most $1')
    .replace(/^Invalid input: expected (\w+), received (\w+)$/, 'is a $1, not a $2')
    .replace(
      /^Invalid option: expected one of (.*)$/,
      (_whole, options: string) => `is one of ${options.replaceAll('|', ', ').replaceAll('"', '')}`,
    );
}

/** The names of the fields that a record at a path may have. */
export function fieldNamesAt(schema: z.core.$ZodType, path: readonly PropertyKey[]): string[] {
  const found = schemaAt(schema, path);
  if (!found) return [];
  const definition = found._zod.def as { shape?: Record<string, unknown>; options?: readonly z.core.$ZodType[] };
  if (definition.shape) return Object.keys(definition.shape);
  return [...new Set((definition.options ?? []).flatMap((option) => fieldNamesAt(option, [])))];
}
