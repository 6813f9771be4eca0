// Dotted paths into objects, such as status.state or spec.disks.volume: reading what is there, and which there are.
import * as z from 'zod';

/**
 * The value at a path; undefined when there is none. Through a list it goes into every member, and what it finds there
 * comes back as a list.
 */
export function readField(object: unknown, path: readonly string[]): unknown {
  let value: unknown = object;
  for (let index = 0; index < path.length; index++) {
    if (Array.isArray(value)) {
      const rest = path.slice(index);
      return value.flatMap((member: unknown) => readField(member, rest) ?? []);
    }
    const key = path[index] ?? '';
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return undefined;
    value = (value as Record<string, unknown>)[key];
  }
  return value;
}

interface JsonSchema {
  $ref?: string;
  $defs?: Record<string, JsonSchema>;
  type?: string | string[];
  properties?: Record<string, JsonSchema>;
  additionalProperties?: JsonSchema | boolean;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  allOf?: JsonSchema[];
}

/** Tells which paths objects of a schema can have, so that a misspelt field is refused and not silently empty. */
export function knownPaths(schema: z.ZodType): (path: string) => boolean {
  const root = z.toJSONSchema(schema, { unrepresentable: 'any', io: 'output' }) as JsonSchema;
  const answers = new Map<string, boolean>();
  return (path) => {
    const known = answers.get(path);
    if (known !== undefined) return known;
    const isKnown = leadsSomewhere(root, root, path.split('.'));
    // Paths come from requests: the memory for them is bounded.
    if (answers.size < 1000) answers.set(path, isKnown);
    return isKnown;
  };
}

function leadsSomewhere(schema: JsonSchema, root: JsonSchema, path: readonly string[]): boolean {
  const [key, ...rest] = path;
  if (key === undefined) return true;
  if (schema.$ref !== undefined) {
    const target = schema.$ref === '#' ? root : root.$defs?.[schema.$ref.replace('#/$defs/', '')];
    return target !== undefined && leadsSomewhere(target, root, path);
  }
  const variants = [...(schema.anyOf ?? []), ...(schema.oneOf ?? []), ...(schema.allOf ?? [])];
  if (variants.some((variant) => leadsSomewhere(variant, root, path))) return true;
  if (schema.items) return leadsSomewhere(schema.items, root, path);
  const property = schema.properties && Object.hasOwn(schema.properties, key) ? schema.properties[key] : undefined;
  if (property) return leadsSomewhere(property, root, rest);
  if (typeof schema.additionalProperties === 'object') return leadsSomewhere(schema.additionalProperties, root, rest);
  if (schema.additionalProperties === true) return true;
  // A schema that says nothing allows anything.
  return schema.type === undefined && !schema.properties && variants.length === 0;
}
