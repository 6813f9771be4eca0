import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import * as z from 'zod';
import { LodgeError } from '../api/errors.ts';
import { configPath, configSchema, loadConfig, parseConfig, unwrapped } from './config.ts';

function refusal(text: string): LodgeError {
  try {
    parseConfig(text, 'lodge.yaml');
  } catch (error) {
    assert.ok(error instanceof LodgeError);
    assert.equal(error.code, 'invalid_request');
    return error;
  }
  throw new Error('it was accepted');
}

test('an empty file gives the defaults', () => {
  const config = parseConfig('', 'lodge.yaml');
  assert.equal(config.dataDir, '/var/lib/lodge');
  assert.equal(config.socketPath, '/run/lodge/lodge.sock');
  assert.deepEqual(config.listen, { address: '127.0.0.1', port: 7443 });
  assert.equal(config.driver, 'qemu');
  assert.equal(config.limits.maxRequests, 512);
});

test('the socket follows runDir unless it has a path of its own', () => {
  assert.equal(parseConfig('runDir: /tmp/run/', 'f').socketPath, '/tmp/run/lodge.sock');
  assert.equal(parseConfig('runDir: /tmp/run\nsocketPath: /tmp/other.sock', 'f').socketPath, '/tmp/other.sock');
});

test('listen: null switches HTTPS off', () => {
  assert.equal(parseConfig('listen: null', 'f').listen, null);
});

test('listen may be short: an address with a port, or none', () => {
  assert.equal(parseConfig('listen: none', 'f').listen, null);
  assert.deepEqual(parseConfig('listen: 127.0.0.1:0', 'f').listen, { address: '127.0.0.1', port: 0 });
  assert.deepEqual(parseConfig('listen: "[::1]:7443"', 'f').listen, { address: '::1', port: 7443 });
  assert.match(refusal('listen: example.org:7443').message, /^lodge\.yaml:1: listen\.address: must be an IP address/);
  assert.match(refusal('listen: 7443').message, /^lodge\.yaml:1: listen: must be a map of keys/);
});

test('an unknown key is refused with its line, and the key that was meant', () => {
  const error = refusal('instance: lab\nlisten:\n  adress: 0.0.0.0\n');
  assert.equal(error.message, 'lodge.yaml:3: listen.adress: is not a key that is known here: did you mean address?');
  assert.deepEqual(
    error.fields?.map((field) => field.field),
    ['listen.adress'],
  );
});

test('every wrong value is refused with its line, its value and what is allowed', () => {
  const error = refusal('# comment\nlisten:\n  port: 70000\ndriver: xen\ndataDir: data\n');
  assert.deepEqual(error.message.split('\n').sort(), [
    'lodge.yaml:3: listen.port: must be from 0 to 65535 (given: 70000)',
    'lodge.yaml:4: driver: must be one of qemu, fake (given: "xen")',
    'lodge.yaml:5: dataDir: must be an absolute path (given: "data")',
  ]);
});

test('what is not YAML is refused with its line', () => {
  assert.match(refusal('instance: lodge\nlisten: {address: 1').message, /^lodge\.yaml:2: /);
  assert.match(refusal('instance: a\ninstance: b').message, /^lodge\.yaml:2: .*unique/);
});

test('a file that is no map is refused', () => {
  assert.match(refusal('- a\n- b').message, /^lodge\.yaml:1: the file: must be a map of keys/);
  assert.match(refusal('qemu: yes please').message, /^lodge\.yaml:1: qemu: must be a map of keys/);
});

test('the file comes from the option, then from LODGE_CONFIG, then from its usual place', () => {
  assert.deepEqual(configPath('/a', { LODGE_CONFIG: '/b' }), { path: '/a', isRequired: true });
  assert.deepEqual(configPath(undefined, { LODGE_CONFIG: '/b' }), { path: '/b', isRequired: true });
  assert.deepEqual(configPath(undefined, {}), { path: '/etc/lodge/lodge.yaml', isRequired: false });
});

test('a named file that is missing is an error', async () => {
  await assert.rejects(
    loadConfig('/nonexistent/lodge.yaml', {}),
    /the configuration \/nonexistent\/lodge\.yaml can not be read: it does not exist/,
  );
});

/** Every key with its default, as `listen.port`. */
function keys(schema: z.core.$ZodType, prefix: string): { key: string; fallback: unknown }[] {
  const inner = unwrapped(schema);
  if (!(inner instanceof z.ZodObject)) return [];
  return Object.entries(inner.shape).flatMap(([name, field]) => {
    const key = prefix === '' ? name : `${prefix}.${name}`;
    const below = keys(field, key);
    if (below.length > 0) return below;
    const { defaultValue } = field._zod.def as { defaultValue?: unknown };
    return [{ key, fallback: defaultValue }];
  });
}

test('docs/configuration.md has every key with its default', async () => {
  const page = await readFile(new URL('../../docs/configuration.md', import.meta.url), 'utf8');
  for (const { key, fallback } of keys(configSchema, '')) {
    const row = page.split('\n').find((line) => line.startsWith(`| \`${key}\` |`));
    assert.ok(row !== undefined, `docs/configuration.md has no row for ${key}`);
    if (typeof fallback === 'string' || typeof fallback === 'number' || typeof fallback === 'boolean') {
      assert.ok(
        row.includes(`\`${String(fallback)}\``),
        `the row of ${key} does not have its default ${String(fallback)}`,
      );
    }
  }
  const documented = [...page.matchAll(/^\| `([\w.]+)` \|/gm)].map((match) => match[1]);
  const known = new Set(keys(configSchema, '').map(({ key }) => key));
  assert.deepEqual(
    documented.filter((key) => !known.has(key ?? '')),
    [],
    'keys that the schema does not have',
  );
});
