import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  inspectInstallation,
  isAtLeast,
  oldestQemu,
  parseChardevHelp,
  parseMachineHelp,
  parseQemuVersion,
} from './installation.ts';

test('the version is read however the distribution dresses it', () => {
  const debian = 'QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright (c) 2003-2025\n';
  assert.equal(parseQemuVersion(debian), '10.0.2');
  assert.equal(parseQemuVersion('QEMU emulator version 8.2.2 (qemu-8.2.2-1.fc40)\n'), '8.2.2');
  assert.equal(parseQemuVersion('QEMU emulator version 9.1\n'), '9.1');
  assert.equal(parseQemuVersion('bash: no such thing\n'), null);
});

test('versions are compared as numbers', () => {
  assert.deepEqual(oldestQemu, [8, 2]);
  const isNew = (version: string): boolean => isAtLeast(version, oldestQemu);
  assert.ok(isNew('8.2.0') && isNew('8.10.0') && isNew('9.0.0') && isNew('10.0.2'));
  assert.ok(!isNew('7.2.15') && !isNew('8.1.5'));
});

test('the machines are all names, and what their short names stand for', () => {
  // Recorded from QEMU 10.0.2, shortened.
  const { names, aliases } = parseMachineHelp(`Supported machines are:
microvm              microvm (i386)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-10.0)
pc-i440fx-10.0       Standard PC (i440FX + PIIX, 1996) (default)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)
pc-q35-10.0          Standard PC (Q35 + ICH9, 2009)
pc-i440fx-7.0        Standard PC (i440FX + PIIX, 1996) (deprecated)
none                 empty machine
`);
  assert.deepEqual(
    [...aliases],
    [
      ['pc', 'pc-i440fx-10.0'],
      ['q35', 'pc-q35-10.0'],
    ],
  );
  assert.ok(names.has('microvm') && names.has('pc-i440fx-7.0') && !names.has('Supported'));
});

test('the kinds of character devices are read', () => {
  const kinds = parseChardevHelp('Available chardev backend types: \n  ringbuf\n  hub\n  socket\n');
  assert.deepEqual([...kinds], ['ringbuf', 'hub', 'socket']);
});

test('a QEMU that is not there is told with what to do', async () => {
  await assert.rejects(inspectInstallation('/nowhere/qemu-system-x86_64'), (error: Error & { hint?: string }) => {
    assert.match(error.message, /\/nowhere\/qemu-system-x86_64.*not installed/);
    assert.match(error.hint ?? '', /[Ii]nstall/);
    return true;
  });
});
