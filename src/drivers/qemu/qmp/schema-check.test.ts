// The check itself, on a schema made by hand; test/qemu/qmp-schema.test.ts runs it on the installed QEMU.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { command, commandOf, event } from './command.ts';
import { checkTables } from './schema-check.ts';
import { QmpSchema } from './schema.ts';
import {
  alternate,
  any,
  array,
  boolean,
  enumeration,
  integer,
  nothing,
  object,
  oneOf,
  openObject,
  optional,
  string,
  union,
} from './shape.ts';

const builtin = (name: string, json = name): unknown => ({ name, 'meta-type': 'builtin', 'json-type': json });
const objectType = (name: string, members: unknown[], more: object = {}): unknown => ({
  name,
  'meta-type': 'object',
  members,
  ...more,
});

const schema = new QmpSchema([
  builtin('str', 'string'),
  builtin('int', 'int'),
  builtin('bool', 'boolean'),
  builtin('null', 'null'),
  objectType('0', []),
  {
    name: 'plug',
    'meta-type': 'command',
    'arg-type': '1',
    'ret-type': '0',
    features: ['deprecated'],
  },
  { name: 'ask', 'meta-type': 'command', 'arg-type': '0', 'ret-type': '3', 'allow-oob': true },
  { name: 'GONE', 'meta-type': 'event', 'arg-type': '3' },
  objectType('1', [
    { name: 'id', type: 'str' },
    { name: 'size', type: 'int', default: null },
    { name: 'old', type: 'str', default: null, features: ['deprecated'] },
    { name: 'mode', type: '2', default: null },
    { name: 'creds', type: '4', default: null },
  ]),
  { name: '2', 'meta-type': 'enum', members: [{ name: 'fast' }, { name: 'safe' }] },
  objectType('3', [
    { name: 'mode', type: '2' },
    { name: 'note', type: 'str', default: null },
  ]),
  { name: '4', 'meta-type': 'alternate', members: [{ type: 'str' }, { type: 'null' }] },
  { name: 'open', 'meta-type': 'command', 'arg-type': '5', 'ret-type': '[6]' },
  objectType('5', [{ name: 'driver', type: '7' }], {
    tag: 'driver',
    variants: [
      { case: 'file', type: '8' },
      { case: 'null', type: '0' },
    ],
  }),
  { name: '[6]', 'meta-type': 'array', 'element-type': '5' },
  { name: '7', 'meta-type': 'enum', members: [{ name: 'file' }, { name: 'null' }] },
  objectType('8', [
    { name: 'filename', type: 'str' },
    { name: 'aio', type: '9', default: null },
  ]),
  { name: '9', 'meta-type': 'enum', members: [{ name: 'threads' }] },
  { name: 'future', 'meta-type': 'something-new' },
]);

type Commands = Parameters<typeof checkTables>[1];
const kinds = (commands: Commands): string[] =>
  checkTables(schema, commands, {}).map(({ kind, where }) => `${kind} ${where}`);

test('tables that agree give nothing', () => {
  const commands = {
    ask: command({}, object({ mode: enumeration('fast', 'safe'), note: optional(string) }), { allowsOutOfBand: true }),
    open: commandOf(
      union('driver', {}, { file: { filename: string, aio: optional(oneOf('threads')) }, null: {} }),
      array(openObject({ driver: string, filename: optional(string) })),
    ),
    newer: command({}, undefined, { since: '99.0' }),
  };
  const events = { GONE: event({ mode: string }), LATER: event({}, '99.0') };
  assert.deepEqual(checkTables(schema, commands, events), []);
});

test('a command or event that QEMU lacks is missing', () => {
  assert.deepEqual(kinds({ nope: command({}) }), ['missing nope']);
  assert.deepEqual(
    checkTables(schema, {}, { NOPE: event({}) }).map(({ kind }) => kind),
    ['missing'],
  );
});

test('arguments: unknown, of another type, deprecated, and mandatory ones left out', () => {
  const found = kinds({ plug: command({ size: string, colour: string, old: optional(string) }) });
  assert.deepEqual(found.sort(), [
    'deprecated plug',
    'deprecated plug arguments.old',
    'mandatory plug arguments.id',
    'missing plug arguments.colour',
    'type plug arguments.size',
  ]);
  assert.deepEqual(kinds({ plug: command({ id: optional(string) }) }), [
    'deprecated plug',
    'mandatory plug arguments.id',
  ]);
});

test('answers: what QEMU may leave out must not be relied on', () => {
  const found = kinds({ ask: command({}, object({ mode: string, note: string })) });
  assert.deepEqual(found, ['mandatory ask returns.note']);
});

test('values: unknown ones, and known ones that are not listed', () => {
  const found = kinds({ ask: command({}, object({ mode: enumeration('fast', 'wild') })) });
  assert.deepEqual(found, ['value ask returns.mode', 'unlisted ask returns.mode']);
  assert.deepEqual(kinds({ ask: command({}, object({ mode: oneOf('fast') })) }), []);
});

test('union cases: unknown tag, case, member, and mandatory members of a case', () => {
  assert.deepEqual(kinds({ open: commandOf(union('type', {}, {}), any) }), ['type open arguments']);
  const found = kinds({
    open: commandOf(union('driver', {}, { file: { speed: integer }, nbd: {} }), any),
  });
  assert.deepEqual(found, [
    'missing open arguments(driver=file).speed',
    'mandatory open arguments(driver=file).filename',
    'value open arguments(driver=nbd)',
  ]);
});

test('an answer that is a union must have all its cases in the table', () => {
  const returns = array(union('driver', {}, { null: {} }));
  assert.deepEqual(kinds({ open: commandOf(openObject({ driver: string }), returns) }), ['unlisted open returns[]']);
});

test('alternates: each side must understand what the other may say', () => {
  const plug = (creds: Parameters<typeof optional>[0]): string[] =>
    kinds({ plug: command({ id: string, creds: optional(creds) }) }).slice(1);
  assert.deepEqual(plug(alternate(string, nothing)), []);
  assert.deepEqual(plug(string), []);
  assert.deepEqual(plug(alternate(string, boolean)), ['type plug arguments.creds']);
});

test('a command that QEMU does not take out of band is reported', () => {
  assert.ok(kinds({ plug: command({ id: string }, undefined, { allowsOutOfBand: true }) }).includes('oob plug'));
});

test('features are found by their path through lists, unions and enumerations', () => {
  assert.ok(schema.has('open'));
  assert.ok(schema.has('open', 'driver.file'));
  assert.ok(schema.has('open', 'filename'));
  assert.ok(schema.has('open', 'aio.threads'));
  assert.ok(!schema.has('open', 'aio.io_uring'));
  assert.ok(!schema.has('open', 'driver.file.x'));
  assert.ok(!schema.has('shut'));
  assert.ok(!schema.has('GONE'));
});

test('what is not an answer to query-qmp-schema is refused', () => {
  assert.throws(() => new QmpSchema({ entries: [] }), TypeError);
  assert.equal(new QmpSchema([null, 3, { name: 'x' }]).command('x'), null);
});
