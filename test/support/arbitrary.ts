// Arbitrary values of the contract's schemas, for property tests: what a client may send, and what a handler may answer.
import * as fc from 'fast-check';
import * as z from 'zod';
import { type Schema } from '../../src/api/route.ts';

type Direction = 'input' | 'output';
type Arbitrary = fc.Arbitrary<unknown>;

interface Definition {
  type: string;
  innerType?: Schema;
  element?: Schema;
  options?: readonly Schema[];
  keyType?: Schema;
  valueType?: Schema;
  in?: Schema;
  out?: Schema;
  entries?: Record<string, string>;
  values?: readonly unknown[];
  shape?: Record<string, Schema>;
}

/** Values that a schema accepts (input), or that it gives (output). */
export function arbitraryOf(schema: Schema, direction: Direction): Arbitrary {
  return make(schema, direction);
}

/** For refinements, and pairs of constraints that the generator doesn't know. Only for parts: a whole would rarely pass. */
function passing(schema: Schema, made: Arbitrary): Arbitrary {
  return made.filter((value) => z.safeParse(schema, value).success);
}

const known: Record<Direction, WeakMap<Schema, Arbitrary>> = { input: new WeakMap(), output: new WeakMap() };

/** Made once for each schema: schemas are shared between routes, and making one takes a while. */
function make(schema: Schema, direction: Direction): Arbitrary {
  const before = known[direction].get(schema);
  if (before !== undefined) return before;
  const made = makeNew(schema, direction);
  known[direction].set(schema, made);
  return made;
}

function makeNew(schema: Schema, direction: Direction): Arbitrary {
  const def = schema._zod.def as unknown as Definition;
  const inner = (of: Schema | undefined): Arbitrary => make(of ?? z.never(), direction);
  switch (def.type) {
    case 'string':
      return passing(schema, text(schema));
    case 'int':
    case 'number':
      return passing(schema, number(schema));
    case 'boolean':
      return fc.boolean();
    case 'null':
      return fc.constant(null);
    case 'unknown':
    case 'any':
      return fc.constantFrom(null, 1, 'text', { a: [true] });
    case 'literal':
      return fc.constantFrom(...(def.values ?? []));
    case 'enum':
      return fc.constantFrom(...Object.values(def.entries ?? {}));
    case 'nullable':
      return fc.option(inner(def.innerType), { nil: null, freq: 3 });
    case 'optional':
      return fc.option(inner(def.innerType), { nil: undefined, freq: 2 });
    case 'default':
    case 'prefault':
      return direction === 'input'
        ? fc.option(inner(def.innerType), { nil: undefined, freq: 2 })
        : inner(def.innerType);
    case 'array': {
      const { minItems = 0, maxItems = 3 } = constraints(schema);
      return fc.array(inner(def.element), {
        minLength: minItems,
        maxLength: Math.max(minItems, Math.min(maxItems, 3)),
      });
    }
    case 'record':
      return passing(
        schema,
        // zod leaves out a key __proto__, wherever it comes from: what is sent and what arrives would differ.
        fc.dictionary(
          (inner(def.keyType) as fc.Arbitrary<string>).filter((key) => key !== '__proto__'),
          inner(def.valueType),
          { maxKeys: 3 },
        ),
      );
    case 'object': {
      const fields = Object.entries(def.shape ?? {}).map(([name, field]) => [name, inner(field)] as const);
      return fc.record(Object.fromEntries(fields)).map((value) => withoutUndefined(value));
    }
    case 'union':
      return fc.oneof(...(def.options ?? []).map((option) => inner(option)));
    case 'pipe':
      // The one pipe of the contract is stringbool.
      return direction === 'input' ? fc.constantFrom('true', 'false', '1', '0') : inner(def.out);
    default:
      throw new Error(`no arbitrary for ${def.type}`);
  }
}

/** As JSON has it: without fields that are undefined. */
function withoutUndefined(value: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined));
}

function number(schema: Schema): Arbitrary {
  const { minimum = -1e6, maximum = 1e9, exclusiveMinimum = -1e6 } = constraints(schema);
  const least = Math.max(minimum, exclusiveMinimum + 1, -1e6);
  const most = Math.min(maximum, 1e15);
  return fc.oneof(fc.integer({ min: least, max: Math.min(most, least + 1000) }), fc.constantFrom(least, most));
}

const formats: Readonly<Record<string, Arbitrary>> = {
  uuid: fc.uuid(),
  ipv4: fc.ipV4(),
  cidrv4: fc.tuple(fc.ipV4(), fc.integer({ min: 0, max: 32 })).map(([address, length]) => `${address}/${length}`),
  cidrv6: fc.constantFrom('fd00:77::/64', '::/0'),
  'date-time': fc
    .date({ min: new Date(0), max: new Date('2100-01-01'), noInvalidDate: true })
    .map((date) => date.toISOString()),
  base64: fc.base64String({ maxLength: 40 }),
  uri: fc.constantFrom('https://example.org/a.qcow2', 'http://10.0.0.1:8080/b?c=d'),
};

function text(schema: Schema): Arbitrary {
  const { format, pattern, minLength = 0, maxLength } = constraints(schema);
  const ofFormat = format === undefined ? undefined : formats[format];
  if (ofFormat !== undefined) return ofFormat;
  if (pattern !== undefined) {
    return fc.stringMatching(new RegExp(pattern), { size: 'small' }).map((value) => value.slice(0, maxLength));
  }
  return fc
    .string({ unit: 'grapheme', minLength, maxLength: Math.max(minLength, Math.min(maxLength ?? 20, 20)) })
    .filter((value) => !value.includes('\0'));
}

interface Constraints {
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
  pattern?: string;
  format?: string;
}

/** Bounds of a text, number or list, as JSON Schema has them. */
function constraints(schema: Schema): Constraints {
  return z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as Constraints;
}

/** JSON that is as nasty as JSON can be. */
export const nastyJson: fc.Arbitrary<unknown> = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom<unknown>(
    '',
    '../../etc/passwd',
    'a\nb',
    'ａdmin',
    '\u202etxt',
    '\0',
    '\ud800',
    'x'.repeat(10_000),
    -1,
    0,
    1.5,
    2 ** 63,
    Number.MAX_VALUE,
    '9223372036854775808',
    [],
    {},
    null,
    true,
    [[[[[[]]]]]],
    { constructor: { prototype: { polluted: true } } },
  ),
);

/** A valid value with one part of it replaced, removed, or added. */
export function mangled(valid: Arbitrary): Arbitrary {
  return fc.tuple(valid, nastyJson, fc.nat(), fc.nat(2)).map(([value, junk, place, how]) => {
    const copy = structuredClone(value);
    const places: { parent: Record<string, unknown>; key: string }[] = [];
    const collect = (node: unknown): void => {
      if (typeof node !== 'object' || node === null) return;
      for (const key of Object.keys(node)) {
        places.push({ parent: node as Record<string, unknown>, key });
        collect((node as Record<string, unknown>)[key]);
      }
    };
    collect(copy);
    const chosen = places[place % Math.max(1, places.length)];
    if (chosen === undefined) return junk;
    if (how === 0) chosen.parent[chosen.key] = junk;
    else if (how === 1) delete chosen.parent[chosen.key];
    else chosen.parent[`${chosen.key}X`] = junk;
    return copy;
  });
}
