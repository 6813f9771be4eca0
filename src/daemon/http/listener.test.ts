// By which hosts a listener is reached.
import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import { test } from 'node:test';
import { reachableHosts } from './listener.ts';

test('an address is itself, an IPv6 address in brackets', () => {
  assert.deepEqual(reachableHosts('192.0.2.1'), ['192.0.2.1']);
  assert.deepEqual(reachableHosts('::1'), ['[::1]']);
});

test('all addresses stand for the machine, by its name first, and are never shown as they are', () => {
  for (const address of ['0.0.0.0', '::', '0:0:0:0:0:0:0:0']) {
    const hosts = reachableHosts(address);
    assert.equal(hosts[0], hostname());
    assert.ok(!hosts.some((host) => /^(0\.0\.0\.0|\[::\]|127\.)/.test(host)));
  }
});
