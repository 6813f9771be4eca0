import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nameOfIso } from './iso.ts';

test('an ISO that is brought in is called as its file is, as far as names go', () => {
  for (const [source, name] of [
    ['/srv/iso/debian-13.1.0-amd64-netinst.iso', 'debian-13-1-0-amd64-netinst'],
    ['https://example.org/pub/Win11_24H2%20x64.ISO?token=1', 'win11-24h2-x64'],
    ['./fedora.iso.xz', 'fedora'],
    ['13.iso', 'iso'],
    [`${'a'.repeat(80)}.iso`, 'a'.repeat(63)],
  ] as const)
    assert.equal(nameOfIso(source), name);
});
