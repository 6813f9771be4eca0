// A schema of which everything may be left out, and nothing is filled in: for sets of fields that are laid over others.
import * as z from 'zod';

/** A value of which everything may be left out, at any depth; lists are whole. */
export type Partially<Value> = Value extends readonly unknown[]
  ? Value
  : Value extends object
    ? { [Key in keyof Value]?: Partially<Value[Key]> }
    : Value;

/**
 * The same fields with the same limits, each optional and without its default. Elements of lists stay as they are: a list
 * is given whole, or not at all.
 */
export function withoutDefaults(shape: Readonly<Record<string, z.core.$ZodType>>): z.ZodObject {
  const fields = Object.entries(shape).map(([name, field]) => [name, bare(field).optional()] as const);
  return z.strictObject(Object.fromEntries(fields));
}

function bare(schema: z.core.$ZodType): z.ZodType {
  const { description } = z.globalRegistry.get(schema) ?? {};
  const inner = content(schema);
  const own = inner instanceof z.ZodObject ? withoutDefaults(inner.shape) : inner;
  // Described anew, so that neither the words of the wrapper nor those of what it wraps are lost.
  return description === undefined || own === schema ? own : own.describe(description);
}

/** What a schema is when it is there. */
function content(schema: z.core.$ZodType): z.ZodType {
  let current = schema;
  while (current instanceof z.ZodDefault || current instanceof z.ZodPrefault || current instanceof z.ZodOptional)
    current = current.unwrap();
  return current as z.ZodType;
}
