import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Config } from './config.ts';
import { chooseConnection } from './connection.ts';

const config: Config = {
  current: 'prod',
  contexts: {
    prod: { server: 'https://prod:7443', token: 'from-context', caCertificate: 'PEM', project: 'shop' },
    here: { socket: '/tmp/other.sock' },
  },
};
const empty: Config = { contexts: {} };

test('without anything, it is the local socket', () => {
  assert.deepEqual(chooseConnection({}, {}, empty), {
    socketPath: '/run/lodge/lodge.sock',
    project: undefined,
    origin: 'the local socket',
  });
});

test('options win over the environment, the environment over the current context', () => {
  const environment = { LODGE_SOCKET: '/run/env.sock' };
  assert.equal(chooseConnection({ socket: '/run/option.sock' }, environment, config).socketPath, '/run/option.sock');
  assert.equal(chooseConnection({}, environment, config).socketPath, '/run/env.sock');
  assert.equal(chooseConnection({}, {}, config).server, 'https://prod:7443');
  assert.equal(chooseConnection({ context: 'here' }, environment, config).socketPath, '/tmp/other.sock');
});

test('an empty variable says nothing', () => {
  assert.equal(chooseConnection({}, { LODGE_SOCKET: '', LODGE_PROJECT: '' }, empty).origin, 'the local socket');
});

test('credentials given now win over those of the context', () => {
  assert.equal(chooseConnection({}, {}, config).token, 'from-context');
  assert.equal(chooseConnection({}, { LODGE_TOKEN: 'from-env' }, config).token, 'from-env');
  const byFile = chooseConnection({ tokenFile: '/t' }, { LODGE_TOKEN: 'from-env' }, config);
  assert.deepEqual([byFile.token, byFile.tokenFile], [undefined, '/t']);
});

test('a token is never sent to a server that it was not meant for: an explicit server takes none from the context', () => {
  const choice = chooseConnection({ server: 'https://elsewhere:7443' }, {}, config);
  assert.deepEqual([choice.token, choice.caCertificate, choice.project], [undefined, undefined, undefined]);
});

test('the project comes from the option, the environment, or the context', () => {
  assert.equal(chooseConnection({ project: 'a' }, { LODGE_PROJECT: 'b' }, config).project, 'a');
  assert.equal(chooseConnection({}, { LODGE_PROJECT: 'b' }, config).project, 'b');
  assert.equal(chooseConnection({}, {}, config).project, 'shop');
});

test('what contradicts itself is refused', () => {
  assert.throws(() => chooseConnection({ socket: '/a', server: 'https://b' }, {}, empty), /--socket and --server/);
  assert.throws(() => chooseConnection({}, { LODGE_SOCKET: '/a', LODGE_SERVER: 'https://b' }, empty), /LODGE_SERVER/);
  assert.throws(() => chooseConnection({ context: 'prud' }, {}, config), /no context "prud"/);
});
