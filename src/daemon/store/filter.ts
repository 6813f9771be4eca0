// Field filters: conditions on the fields of an object, all of which must hold.
//
//   filter    = [ condition *( "," condition ) ]
//   condition = path operator value   compares the value at the path
//             | path                  the field is there and not null
//             | "!" path              it is not
//   operator  = "=" | "==" | "!=" | ">" | ">=" | "<" | "<="
//             | "~" | "!~"            contains, does not contain; without regard to case
//   value     = text without "," or quotes, or "…" with \" and \\
//
// Numbers compare as numbers, everything else as text (so RFC 3339 times compare as they should). Through a list the
// condition holds when it holds for one member; != and !~ hold when = and ~ do not.
import { invalidField } from '../../api/errors.ts';
import { readField } from './field-path.ts';

const maxConditions = 32;
const operators = ['==', '!=', '>=', '<=', '!~', '=', '>', '<', '~'] as const;
type Operator = (typeof operators)[number];

/** Makes a test of objects from a filter. Throws invalid_request for query.filter. */
export function parseFilter(text: string, isKnownPath?: (path: string) => boolean): (object: object) => boolean {
  if (text.trim() === '') return () => true;
  const conditions = splitConditions(text);
  if (conditions.length > maxConditions) throw problem(`takes at most ${maxConditions} conditions`, text);
  const tests = conditions.map((condition) => parseCondition(condition, isKnownPath));
  return (object) => tests.every((test) => test(object));
}

function problem(message: string, value: string): Error {
  return invalidField('query.filter', message, value);
}

function splitConditions(text: string): string[] {
  const parts: string[] = [''];
  let isQuoted = false;
  for (let index = 0; index < text.length; index++) {
    const character = text[index] ?? '';
    if (isQuoted && character === '\\') {
      parts.push((parts.pop() ?? '') + character + (text[++index] ?? ''));
      continue;
    }
    if (character === '"') isQuoted = !isQuoted;
    if (character === ',' && !isQuoted) parts.push('');
    else parts.push((parts.pop() ?? '') + character);
  }
  if (isQuoted) throw problem('has a quote that is not closed', text);
  return parts.map((part) => part.trim());
}

function parseCondition(text: string, isKnownPath?: (path: string) => boolean): (object: object) => boolean {
  const match = /^(!?)\s*(\w[\w-]*(?:\.\w[\w-]*)*)\s*(.*)$/s.exec(text);
  const expected = 'is a list of conditions like status.state=running,spec.memoryMib>=1024,name~web';
  const [, negation, path, rest] = match ?? [];
  if (path === undefined || rest === undefined) throw problem(expected, text);
  if (isKnownPath && !isKnownPath(path)) throw problem(`there is no field ${path}`, text);
  const keys = path.split('.');
  if (rest === '') {
    const isWanted = negation === '';
    return (object) => isPresent(readField(object, keys)) === isWanted;
  }
  const operator = operators.find((candidate) => rest.startsWith(candidate));
  if (!operator || negation !== '') throw problem(`${expected}; the operators are = != > >= < <= ~ !~`, text);
  const test = comparison(operator, readValue(rest.slice(operator.length).trim(), text));
  return (object) => test(readField(object, keys));
}

function readValue(text: string, condition: string): string {
  if (!text.startsWith('"')) {
    if (text.includes('"')) throw problem('takes a value in quotes as a whole or not at all', condition);
    return text;
  }
  if (!/^"(?:[^"\\]|\\["\\])*"$/.test(text))
    throw problem('has text around a quoted value, or a \\ before other than " or \\', condition);
  return text.slice(1, -1).replaceAll(/\\(.)/g, '$1');
}

function isPresent(value: unknown): boolean {
  return value !== undefined && value !== null && !(Array.isArray(value) && value.length === 0);
}

function comparison(operator: Operator, wanted: string): (found: unknown) => boolean {
  switch (operator) {
    case '!=':
      return not(comparison('=', wanted));
    case '!~':
      return not(comparison('~', wanted));
    case '~': {
      const part = wanted.toLowerCase();
      return some((found) => String(found).toLowerCase().includes(part));
    }
    case '=':
    case '==': {
      const number = toNumber(wanted);
      return some((found) => (typeof found === 'number' ? found === number : String(found) === wanted));
    }
    default:
      return some(ordering(operator, wanted));
  }
}

function ordering(operator: '>' | '>=' | '<' | '<=', wanted: string): (found: Scalar) => boolean {
  const number = toNumber(wanted);
  const holds = (order: number): boolean => {
    if (operator === '>') return order > 0;
    if (operator === '>=') return order >= 0;
    return operator === '<' ? order < 0 : order <= 0;
  };
  return (found) => {
    if (typeof found === 'number') return number !== null && holds(found - number);
    const text = String(found);
    return holds(text === wanted ? 0 : text < wanted ? -1 : 1);
  };
}

type Scalar = string | number | boolean;

function some(test: (found: Scalar) => boolean): (found: unknown) => boolean {
  const testOne = (found: unknown): boolean =>
    (typeof found === 'string' || typeof found === 'number' || typeof found === 'boolean') && test(found);
  return (found) => (Array.isArray(found) ? found.some(testOne) : testOne(found));
}

function not(test: (found: unknown) => boolean): (found: unknown) => boolean {
  return (found) => !test(found);
}

function toNumber(text: string): number | null {
  const number = text === '' ? Number.NaN : Number(text);
  return Number.isNaN(number) ? null : number;
}
