// The machine: recorded texts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseHypervisor, parseOsRelease } from './machine.ts';

test('os-release is read with and without quotes, and with escapes', () => {
  const values = parseOsRelease(`PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
ID=debian
VERSION_ID='12'
ODD="a \\"b\\" \\$c"
# comment
EMPTY=
`);
  assert.equal(values.get('PRETTY_NAME'), 'Debian GNU/Linux 12 (bookworm)');
  assert.equal(values.get('ID'), 'debian');
  assert.equal(values.get('VERSION_ID'), '12');
  assert.equal(values.get('ODD'), 'a "b" $c');
  assert.equal(values.get('EMPTY'), '');
  assert.equal(values.size, 5);
});

test('lscpu names the hypervisor, or none', () => {
  assert.equal(parseHypervisor('Flags:  hypervisor\nHypervisor vendor:                       KVM\n'), 'kvm');
  assert.equal(parseHypervisor('Model name: x\n'), null);
});
