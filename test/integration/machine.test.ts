// What src/host reads of the machine the tests run on, compared with what Node and the kernel say elsewhere.
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { readCpu, readCpuTimes } from '../../src/host/cpu.ts';
import { readDiskSpace, readKvm, readMachine } from '../../src/host/machine.ts';
import { readHugePages, readMemory, readMemoryPressure, readNumaNodes } from '../../src/host/memory.ts';

test('processors, memory and nodes agree with what Node sees', async () => {
  const cpu = await readCpu();
  assert.equal(cpu.count, os.cpus().length);
  assert.ok(cpu.sockets * cpu.coresPerSocket * cpu.threadsPerCore >= cpu.count);
  assert.ok(cpu.flags.has('lm'));
  const memory = await readMemory();
  assert.equal(memory.totalBytes, os.totalmem());
  assert.ok(memory.availableBytes > 0 && memory.availableBytes <= memory.totalBytes);
  for (const node of await readNumaNodes()) assert.ok(node.totalBytes > 0 && node.distances.length > 0);
  for (const pool of await readHugePages()) assert.ok(pool.pageBytes >= 64 * 1024 && pool.free <= pool.total);
  const pressure = await readMemoryPressure();
  assert.ok(pressure === null || pressure.somePercent >= 0);
  const times = await readCpuTimes();
  assert.ok(times.busy > 0 && times.busy < times.total);
});

test('the machine is named, and the space of a path is read', async () => {
  const machine = await readMachine();
  assert.equal(machine.hostname, os.hostname());
  assert.equal(machine.kernel, os.release());
  assert.match(machine.bootId, /^[0-9a-f-]{36}$/);
  assert.notEqual(machine.operatingSystem, '');
  const space = await readDiskSpace(os.tmpdir());
  assert.ok(space.freeBytes > 0 && space.freeBytes <= space.totalBytes);
  await assert.rejects(readDiskSpace('/does/not/exist'));
});

test('KVM is described from its device and its modules', async (t) => {
  const root = await mkdtemp(join(os.tmpdir(), 'lodge-modules-'));
  t.after(async () => await rm(root, { recursive: true }));
  await mkdir(join(root, 'kvm_intel', 'parameters'), { recursive: true });
  await mkdir(join(root, 'kvmgt'));
  await writeFile(join(root, 'kvm_intel', 'parameters', 'nested'), 'Y\n');
  const missing = await readKvm(join(root, 'no-device'), root);
  assert.equal(missing.isPresent, false);
  assert.equal(missing.canOpen, false);
  assert.match(missing.problem, /no-device does not exist/);
  assert.deepEqual(
    missing.modules.map((module) => module.name),
    ['kvm_intel'],
  );
  assert.equal(missing.isNestingEnabled, true);
  // A device that opens.
  const open = await readKvm('/dev/null', root);
  assert.deepEqual([open.isPresent, open.canOpen, open.problem], [true, true, '']);
});
