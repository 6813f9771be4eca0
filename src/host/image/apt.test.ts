import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseAptOptions, parseTargets } from './apt-mirrors.ts';
import { parseDependencies, parseUris } from './apt.ts';
import { parseInstalledPackages } from './debian.ts';

test('of alternative dependencies the first is taken, versions and architectures are left out', () => {
  const record =
    'Package: x\nPre-Depends: libc6 (>= 2.34)\nDepends: libfoo1 | libfoo2, libbar:any (= 1), libc6\nSuggests: no\n';
  assert.deepEqual(parseDependencies(record), ['libc6', 'libfoo1', 'libbar']);
});

test('download lists give name, version with its colon, and size', () => {
  const output =
    "'http://deb.debian.org/debian/pool/main/q/qemu/q.deb' qemu-guest-agent_1%3a7.2+dfsg-7_amd64.deb 346272 SHA256:ab\nnoise\n";
  assert.deepEqual(parseUris(output), [
    {
      fileName: 'qemu-guest-agent_1%3a7.2+dfsg-7_amd64.deb',
      name: 'qemu-guest-agent',
      version: '1:7.2+dfsg-7',
      sizeBytes: 346272,
    },
  ]);
});

test("Debian's archives are found among a machine's sources, the public ones stand in", () => {
  const output = [
    'Google|x|https://example.org/apt/|main',
    'Debian|Debian|http://mirror.example/debian/|contrib',
    'Debian|Debian|http://mirror.example/debian/|main',
    'Debian|Debian-Security|http://mirror.example/security/|main',
  ].join('\n');
  assert.deepEqual(parseTargets(output), {
    archive: 'http://mirror.example/debian',
    security: 'http://mirror.example/security',
  });
  assert.deepEqual(parseTargets('Ubuntu|Ubuntu|http://archive.ubuntu.example/ubuntu/|main\n'), {
    archive: 'http://deb.debian.org/debian',
    security: 'http://deb.debian.org/debian-security',
  });
});

test('of apt options those are passed on that decide whether the mirror is reached', () => {
  const dump = [
    'APT::Architecture "amd64";',
    'Acquire::http::Proxy "http://proxy.example:3128";',
    'Acquire::http::Proxy::mirror.example "DIRECT";',
    'Acquire::Check-Valid-Until "false";',
    'Acquire::Retries "";',
    'DPkg::Post-Invoke:: "rm -rf /";',
  ].join('\n');
  assert.deepEqual(parseAptOptions(dump), [
    'Acquire::http::Proxy "http://proxy.example:3128"',
    'Acquire::Check-Valid-Until "false"',
  ]);
});

test('installed packages are those that dpkg calls installed', () => {
  const status =
    'Package: a\nStatus: install ok installed\nVersion: 1:2-3\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 1\n';
  assert.deepEqual(parseInstalledPackages(status), { a: '1:2-3' });
});
