import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lodgeCommand, stopCommand } from './next-steps.ts';

const own = {
  configPath: null,
  socketPath: '/run/lodge/lodge.sock',
  launcher: '/usr/local/bin/lodge',
  searchPath: '/usr/local/bin:/usr/bin',
};

test('the machine’s own daemon needs no options', () => {
  assert.equal(lodgeCommand(own), 'lodge');
  assert.equal(stopCommand(own), 'npm stop');
});

test('a daemon with a configuration of its own is reached by its socket', () => {
  const started = { ...own, configPath: '/srv/my lab/lodge.yaml', socketPath: '/srv/my lab/run/lodge.sock' };
  assert.equal(lodgeCommand(started), "lodge --socket '/srv/my lab/run/lodge.sock'");
  assert.equal(stopCommand(started), "npm stop -- --config '/srv/my lab/lodge.yaml'");
});

test('a launcher that the shell would not find is named with its path', () => {
  assert.equal(lodgeCommand({ ...own, launcher: '/opt/lodge/bin/lodge' }), '/opt/lodge/bin/lodge');
});
