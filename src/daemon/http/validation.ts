// Checks what came with a request against the schemas of its route, and says for each wrong field where it is, what was
// given and what is allowed. Nothing that passes here has unknown fields, keys that reach a prototype, text that can't
// be stored (U+0000, lone surrogates), or nesting that could exhaust the stack.
import * as z from 'zod';
import { LodgeError, shorten, type FieldProblem } from '../../api/errors.ts';
import type { Schema } from '../../api/route.ts';
import { closestWord } from '../../lib/closest-word.ts';

/** Deepest nesting a JSON body may have. The contract's own depth is below 10. */
export const maxJsonDepth = 64;
/** Most values (objects, arrays, texts, numbers, keys) a JSON body may have. */
export const maxJsonValues = 100_000;
/** Most problems one answer lists. */
const maxProblems = 50;
/** Most parameters a query may have. */
const maxQueryParameters = 100;
const maxParameterLength = 200;

/** Fields whose values are not shown again, not even to the one who sent them: answers end up in logs of clients. */
const secretField = /password|secret|token|userdata|input/i;

/** An invalid_request that lists problems. */
export function invalidRequest(problems: FieldProblem[]): LodgeError {
  const [first] = problems;
  if (first === undefined) return new LodgeError('invalid_request', 'the request is not valid');
  const given = typeof first.value === 'string' ? ` (given: ${first.value})` : '';
  const more = problems.length > 1 ? `; and ${problems.length - 1} more` : '';
  return new LodgeError('invalid_request', `${first.field}: ${first.message}${given}${more}`, {
    fields: problems.slice(0, maxProblems),
  });
}

function problem(field: string, message: string, value?: unknown): FieldProblem {
  return { field, message, ...(value === undefined || secretField.test(field) ? {} : { value: shorten(value) }) };
}

/** The value as the schema gives it back, with defaults; or an invalid_request. */
export function validate(schema: Schema, value: unknown, where: 'body' | 'query' | 'params'): unknown {
  const result = z.safeParse(schema, value, { error: messageOf });
  if (result.success) return result.data;
  const problems: FieldProblem[] = [];
  for (const issue of result.error.issues) collect(issue, value, where === 'body' ? '' : where, problems);
  // A number beyond what a number can be exactly is beyond its field's own limit too, which says more.
  const last = new Map(problems.map((one) => [one.field, one]));
  throw invalidRequest([...last.values()]);
}

type Issue = z.core.$ZodIssue;

function collect(issue: Issue, root: unknown, prefix: string, problems: FieldProblem[]): void {
  if (issue.code === 'invalid_union' && issue.errors.length > 0) {
    // The alternative that got furthest is most likely the one that was meant.
    const branches = [...issue.errors].sort(
      (left, right) => depthOf(right) - depthOf(left) || left.length - right.length,
    );
    const base = issue.path;
    for (const inner of branches[0] ?? []) {
      collect({ ...inner, path: [...base, ...inner.path] }, root, prefix, problems);
    }
    return;
  }
  const field = fieldPath(prefix, issue.path);
  if (issue.code === 'unrecognized_keys') {
    for (const key of issue.keys) {
      problems.push(problem(fieldPath(prefix, [...issue.path, key]), 'is not a field that is known here'));
    }
    return;
  }
  if (issue.code === 'invalid_key') {
    const [first] = issue.issues;
    problems.push(problem(field, first?.message ?? 'is not a valid key'));
    return;
  }
  problems.push(problem(field === '' ? 'body' : field, issue.message, valueAt(root, issue.path)));
}

function depthOf(issues: readonly Issue[]): number {
  return Math.max(0, ...issues.map((issue) => issue.path.length));
}

/** `spec.disks.0.sizeMib`, as fields are also named in filters and on the command line. */
function fieldPath(prefix: string, path: readonly PropertyKey[]): string {
  let text = prefix;
  for (const part of path) {
    const name = /^[\w-]{1,80}$/.test(String(part)) ? String(part) : shorten(String(part));
    text += text === '' ? name : `.${name}`;
  }
  return text;
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let current = root;
  for (const part of path) {
    if (typeof current !== 'object' || current === null || !Object.hasOwn(current, part)) return undefined;
    current = (current as Record<PropertyKey, unknown>)[part];
  }
  return current;
}

/** What is wrong with a field, as the rest of a sentence that begins with the field's name. Own messages of schemas win. */
function messageOf(issue: z.core.$ZodRawIssue): string {
  switch (issue.code) {
    case 'invalid_type': {
      if (issue.input === undefined) return 'is missing';
      const field = issue.path?.at(-1);
      if (issue.expected === 'number' && typeof field === 'string' && field.endsWith('Mib')) {
        return 'must be a number of MiB, without a unit';
      }
      return typeNames[issue.expected] ?? `must be a ${issue.expected}`;
    }
    case 'too_small':
      return `must ${limitText(issue.origin, 'at least', issue.minimum, issue.inclusive !== false)}`;
    case 'too_big':
      return `must ${limitText(issue.origin, 'at most', issue.maximum, issue.inclusive !== false)}`;
    case 'not_multiple_of':
      return `must be a multiple of ${issue.divisor}`;
    case 'invalid_value': {
      const allowed = issue.values.map((value) => String(value));
      const meant = typeof issue.input === 'string' ? closestWord(issue.input, allowed) : null;
      return `must be ${allowed.length > 1 ? `one of ${allowed.join(', ')}` : allowed[0]}${meant === null ? '' : `: did you mean ${meant}?`}`;
    }
    case 'invalid_format':
      return formatTexts[issue.format] ?? `is not a valid ${issue.format}`;
    case 'invalid_union':
      return issue.discriminator === undefined
        ? 'fits none of the allowed forms'
        : `needs a known value of ${issue.discriminator}`;
    case 'unrecognized_keys':
      return 'has fields that are not known here';
    case 'invalid_key':
      return 'has a key that is not valid';
    case 'invalid_element':
      return 'has an element that is not valid';
    default:
      return 'is not valid';
  }
}

const typeNames: Readonly<Record<string, string>> = {
  int: 'must be a whole number',
  number: 'must be a number',
  string: 'must be a text',
  boolean: 'must be true or false',
  object: 'must be an object',
  record: 'must be an object',
  array: 'must be a list',
};

const formatTexts: Readonly<Record<string, string>> = {
  uuid: 'must be a UUID',
  ipv4: 'must be an IPv4 address such as 10.77.0.5',
  ipv6: 'must be an IPv6 address',
  cidrv4: 'must be an IPv4 prefix such as 10.77.0.0/24',
  cidrv6: 'must be an IPv6 prefix such as fd00:77::/64',
  url: 'must be an http or https URL',
  base64: 'must be base64',
  datetime: 'must be a time as in RFC 3339: 2026-01-31T12:00:00Z',
};

function limitText(origin: string, bound: string, limit: number | bigint, isInclusive: boolean): string {
  const edge = isInclusive ? bound : bound === 'at least' ? 'more than' : 'less than';
  if (origin === 'string') return `be ${edge} ${limit} characters long`;
  if (origin === 'array' || origin === 'set') return `have ${edge} ${limit} entries`;
  return `be ${edge} ${limit}`;
}

/** Path parameters are names, ids and tickets: characters that need no encoding, so nothing that walks a path. */
export function checkParams(params: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(params)) {
    if (!/^[\w~-][\w.~-]*$/.test(value) || value.length > maxParameterLength) {
      throw invalidRequest([
        problem(
          `params.${name}`,
          'must be a name or an id: letters, digits, "-", "_" and ".", at most 200 characters',
          value,
        ),
      ]);
    }
  }
}

/** The part after "?" as names with one value, or all of several. Throws for what is not well-formed. */
export function parseQuery(text: string): Record<string, string | string[]> {
  const query: Record<string, string | string[]> = Object.create(null) as Record<string, string | string[]>;
  if (text === '') return query;
  const parts = text.split('&', maxQueryParameters + 1);
  if (parts.length > maxQueryParameters) {
    throw new LodgeError('invalid_request', `query: takes at most ${maxQueryParameters} parameters`);
  }
  for (const part of parts) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    const name = decode(equals === -1 ? part : part.slice(0, equals));
    const value = decode(equals === -1 ? '' : part.slice(equals + 1));
    const before = query[name];
    if (before === undefined) query[name] = value;
    else if (Array.isArray(before)) before.push(value);
    else query[name] = [before, value];
  }
  return query;
}

function decode(text: string): string {
  let decoded: string;
  try {
    decoded = decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw invalidRequest([problem('query', 'is not well-formed percent-encoding of UTF-8', text)]);
  }
  if (decoded.includes('\0')) throw invalidRequest([problem('query', 'takes no U+0000', text)]);
  return decoded;
}

/** The query against its schema. A list takes one value or several; what is no list takes one. `defaults` stand for what is not given. */
export function validateQuery(
  schema: Schema | undefined,
  text: string,
  defaults: Readonly<Record<string, string>> = {},
): unknown {
  const query = parseQuery(text);
  const names = Object.keys(query);
  if (schema === undefined) {
    if (names.length === 0) return undefined;
    throw invalidRequest(names.map((name) => problem(fieldPath('query', [name]), 'is not a parameter of this route')));
  }
  const lists = listFields(schema);
  const plain: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  for (const [name, value] of Object.entries(defaults)) {
    if (schema instanceof z.core.$ZodObject && Object.hasOwn(schema._zod.def.shape, name)) plain[name] = value;
  }
  for (const name of names) {
    const value = query[name];
    if (lists.has(name)) plain[name] = Array.isArray(value) ? value : [value];
    else if (Array.isArray(value)) {
      throw invalidRequest([problem(fieldPath('query', [name]), 'is given more than once', value)]);
    } else plain[name] = value;
  }
  return validate(schema, { ...plain }, 'query');
}

const listFieldsOf = new WeakMap<Schema, ReadonlySet<string>>();

/** Names of the fields of an object schema that are lists. */
function listFields(schema: Schema): ReadonlySet<string> {
  const known = listFieldsOf.get(schema);
  if (known !== undefined) return known;
  const fields = new Set<string>();
  if (schema instanceof z.core.$ZodObject) {
    for (const [name, field] of Object.entries(schema._zod.def.shape)) if (isList(field)) fields.add(name);
  }
  listFieldsOf.set(schema, fields);
  return fields;
}

function isList(schema: Schema): boolean {
  const def = schema._zod.def as { type: string; innerType?: Schema; in?: Schema };
  if (def.type === 'array') return true;
  const inner = def.innerType ?? def.in;
  return inner !== undefined && isList(inner);
}

/** A JSON text as a value that is safe to walk, validate and keep. */
export function parseJson(bytes: Uint8Array): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new LodgeError('invalid_request', 'the body is not UTF-8', { hint: 'Send JSON encoded as UTF-8.' });
  }
  let value: unknown;
  try {
    value = JSON.parse(text) as unknown;
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : 'it can not be parsed';
    throw new LodgeError('invalid_request', `the body is not JSON: ${why}`, { hint: 'Send one JSON document.', cause });
  }
  checkJson(value);
  return value;
}

/** Walks without recursion, so that no depth can exhaust the stack. */
function checkJson(root: unknown): void {
  let count = 0;
  const stack: { value: unknown; depth: number }[] = [{ value: root, depth: 0 }];
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    count += 1;
    if (count > maxJsonValues) {
      throw new LodgeError('invalid_request', `the body has more than ${maxJsonValues} values`, {
        hint: 'Send less at once.',
      });
    }
    const { value, depth } = top;
    if (typeof value === 'string') checkText(value);
    if (typeof value !== 'object' || value === null) continue;
    if (depth >= maxJsonDepth) {
      throw new LodgeError('invalid_request', `the body is nested deeper than ${maxJsonDepth} levels`);
    }
    if (Array.isArray(value)) {
      for (const item of value as unknown[]) stack.push({ value: item, depth: depth + 1 });
      continue;
    }
    for (const [key, item] of Object.entries(value)) {
      // As a key of an object made by assignment, it would set the prototype.
      if (key === '__proto__') throw invalidRequest([{ field: key, message: 'is not a field that is known here' }]);
      checkText(key);
      stack.push({ value: item, depth: depth + 1 });
    }
  }
}

function checkText(text: string): void {
  if (text.includes('\0') || !text.isWellFormed()) {
    throw new LodgeError('invalid_request', `the body has a text with U+0000 or a lone surrogate: ${shorten(text)}`, {
      hint: 'Send text of whole Unicode characters, without U+0000.',
    });
  }
}
