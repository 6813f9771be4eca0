// Profiles, instance types, clones and templates by the command line, as somebody types it.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { commandLine } from '../support/command-line.ts';
import { sharedFakeLodge } from '../support/fake-lodge.ts';
import { temporaryFolder } from '../support/temporary.ts';

const lodge = sharedFakeLodge();

test('a profile and a type are made, given to a VM, changed, and taken over when that is asked for', async (t) => {
  const { daemon } = await lodge(t);
  const cli = await commandLine(t, daemon);
  await cli.ok('profile', 'create', 'web', 'autostart=true', 'stopTimeoutS=7', '--description', 'for web servers');
  assert.match(await cli.fails(2, 'profile', 'create', 'x', 'disks.0.sizeMib=5'), /has no field disks/);
  await cli.ok('vm', 'create', 'web1', '--type', 'micro', '--profile', 'web', '--network', 'none', '--no-start');
  const shown = await cli.ok('vm', 'show', 'web1');
  assert.match(shown, /Instance type: +micro/);
  assert.match(shown, /stopTimeoutS: 7, from profile web/);
  assert.match(shown, /memoryMib: 512, from instance type micro/);
  assert.match(
    await cli.fails(2, 'vm', 'set', 'web1', 'memoryMib=1GiB'),
    /512 in instance type micro[^]*instanceType-/,
  );
  assert.match(await cli.ok('profile', 'set', 'web', 'stopTimeoutS=8'), /VM web1 can take it over/);
  assert.match(await cli.ok('profile', 'apply', 'web', '--dry-run'), /stopTimeoutS: 7 → 8, by profile web/);
  assert.match(await cli.ok('profile', 'apply', 'web'), /VM web1 is changed/);
  assert.match(await cli.ok('vm', 'set', 'web1', 'stopTimeoutS-'), /as it was[^]*stopTimeoutS comes from profile web/);
  assert.match(await cli.fails(4, 'profile', 'delete', 'web', '--yes'), /used by VM web1[^]*--force/);
  await cli.ok('profile', 'delete', 'web', '--yes', '--force');
  assert.match(await cli.ok('vm', 'show', 'web1', '-o', 'yaml'), /stopTimeoutS: 8/);
});

test('files describe profiles, types, VMs of them and templates, and doing it again changes nothing', async (t) => {
  const { daemon } = await lodge(t);
  const cli = await commandLine(t, daemon);
  const file = join(await temporaryFolder(t), 'site.yaml');
  const site = `
kind: Template
name: base
vm: web2
spec: {description: first}
---
kind: Vm
name: web2
spec: {instanceType: tiny, profiles: [quiet], nics: []}
---
kind: Profile
name: quiet
spec: {display: none}
---
kind: InstanceType
name: tiny
spec: {cpu: {count: 1}, memoryMib: 64MiB}
`;
  await writeFile(file, site);
  await cli.ok('apply', '-f', file);
  assert.match(await cli.ok('apply', '-f', file, '--dry-run'), /Vm web2 is as it should be/);
  assert.doesNotMatch(await cli.ok('apply', '-f', file), / created| changed\n/);
  await writeFile(file, site.replace('first', 'second'));
  assert.match(await cli.ok('apply', '-f', file), /Template base changed/);
  await cli.ok('delete', '-f', file, '--force', '--yes');
});

test('clones that are started are shown as they are then, and a network that is not there says how to make it', async (t) => {
  const { daemon } = await lodge(t);
  const cli = await commandLine(t, daemon);
  await cli.ok('vm', 'create', 'web3', '--memory', '64MiB', '--network', 'none', '--no-start');
  const clones = await cli.ok('vm', 'clone', 'web3', '--count', '2', '--start');
  assert.match(clones, /web3-1 +running[^]*web3-2 +running/);
  assert.match(
    await cli.fails(3, 'vm', 'create', 'x', '-p', 'team'),
    /there is no network "default" in project "team"[^]*lodge network create default/,
  );
});
