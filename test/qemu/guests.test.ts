// Guests of every kind through the whole daemon: machine types, processors, firmware, accelerators; their consoles and
// what their agent does.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Duplex } from 'node:stream';
import { test } from 'node:test';
import { run } from '../../src/host/command.ts';
import { readPng, type Picture } from '../support/png.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;

async function openConsole(
  host: QemuDaemon,
  vm: string,
  type: 'serial' | 'vnc',
): Promise<{ stream: Duplex; path: string }> {
  const { path } = await host.client.vm.openConsole({ params: { vm }, query, body: { type } });
  const { stream } = await host.daemon.connection.openWebSocket(path);
  stream.on('error', () => {});
  return { stream, path };
}

/** Reads until the text satisfies a pattern. */
async function readUntil(stream: Duplex, pattern: RegExp): Promise<string> {
  let text = '';
  const deadline = AbortSignal.timeout(60_000);
  while (!pattern.test(text)) {
    const chunk = stream.read() as Buffer | null;
    if (chunk) text += chunk.toString('latin1');
    else
      await once(stream, 'readable', { signal: deadline }).catch(() => {
        throw new Error(`instead of ${pattern} only this came: ${JSON.stringify(text.slice(-300))}`);
      });
  }
  return text;
}

async function screenshot(host: QemuDaemon, vm: string): Promise<{ picture: Picture; bytes: Buffer }> {
  const bytes = Buffer.from(await (await host.client.vm.screenshot({ params: { vm }, query })).bytes());
  return { picture: readPng(bytes), bytes };
}

/** Imports a disc with a file that says "from the disc". */
async function importDisc(host: QemuDaemon, name: string): Promise<void> {
  const readme = join(host.daemon.folder, 'readme');
  const path = join(host.daemon.folder, 'disc.iso');
  await writeFile(readme, 'from the disc\n');
  await run(['xorriso', '-as', 'mkisofs', '-quiet', '-o', path, readme]);
  await host.done(host.client.image.create({ body: { name, spec: { source: { type: 'file', path } } } }));
}

test('guests of tiny: consoles and agent', { timeout: 300_000 }, async (context) => {
  const host = await qemuDaemon(context);
  await importDisc(host, 'disc');
  const disks = [{ name: 'cd', device: 'cdrom' as const, image: 'disc' }];
  await host.create('web1', { cpu: { model: 'x86-64-v2', count: 2 }, nics: [{ network: 'user' }], disks });
  await host.untilUp('web1');

  await context.test('it finds its CD-ROM without being told what bus to have it on', async () => {
    const { output } = await host.exec('web1', [
      'sh',
      '-c',
      'mount -r /dev/sr0 /mnt && cat /mnt/readme && umount /mnt',
    ]);
    assert.equal(output.toLowerCase(), 'from the disc\n');
  });

  await context.test('its serial console is interactive, and shows what was before', async () => {
    const { stream, path } = await openConsole(host, 'web1', 'serial');
    await readUntil(stream, /lodge: ready/);
    stream.write('echo h"i"\n');
    await readUntil(stream, /\nhi\r/);
    await assert.rejects(
      host.daemon.connection.openWebSocket(path),
      { code: 'not_found' },
      'a ticket is good for once',
    );
    const other = await openConsole(host, 'web1', 'serial');
    await readUntil(other.stream, /lodge: ready[^]*\nhi\r/);
    other.stream.write('echo b"oth"\n');
    await Promise.all([readUntil(other.stream, /\nboth\r/), readUntil(stream, /\nboth\r/)]);
    stream.destroy();
    other.stream.destroy();
    const log = await host.client.vm.serialLog({ params: { vm: 'web1' }, query: { ...query, bytes: 10_000 } });
    assert.match(await log.text(), /lodge: ready[^]*\nhi\r/);
  });

  await context.test('it has no display unless it is asked for', async () => {
    const { path } = await host.client.vm.openConsole({ params: { vm: 'web1' }, query, body: { type: 'vnc' } });
    await assert.rejects(host.daemon.connection.openWebSocket(path), { code: 'unsupported' });
    await assert.rejects(host.client.vm.screenshot({ params: { vm: 'web1' }, query }), { code: 'unsupported' });
  });

  await context.test('programs run in it, with input, output and exit code', async () => {
    assert.deepEqual(await host.exec('web1', ['sh', '-c', 'tr a-z A-Z; exit 3'], 'hello'), {
      output: 'HELLO',
      code: 3,
    });
    assert.deepEqual(await host.exec('web1', ['/no/such/program']), { output: '', code: 127 });
  });

  await context.test('files go in and come out unchanged', async () => {
    const content = randomBytes(300_000);
    const path = '/tmp/random bytes';
    await host.client.vm.writeFile({ params: { vm: 'web1' }, query: { ...query, path }, body: content });
    const back = await host.client.vm.readFile({ params: { vm: 'web1' }, query: { ...query, path } });
    assert.ok(content.equals(Buffer.from(await back.bytes())));
    const missing = { ...query, path: '/no/such/file' };
    await assert.rejects(
      async () => (await host.client.vm.readFile({ params: { vm: 'web1' }, query: missing })).bytes(),
      { code: 'not_found' },
    );
  });

  await context.test('folders go in and come out by the command line, with permissions and links', async (t) => {
    const folder = await temporaryFolder(t);
    const [site, back] = [join(folder, 'site'), join(folder, 'back')];
    await mkdir(join(site, 'sub'), { recursive: true });
    await writeFile(join(site, 'sub/data'), randomBytes(200_000));
    await writeFile(join(site, 'run.sh'), '#!/bin/sh\necho it ran\n', { mode: 0o750 });
    await writeFile(join(site, 'n'.repeat(150)), 'long name');
    await symlink('sub/data', join(site, 'link'));
    const launcher = join(import.meta.dirname, '../../bin/lodge');
    const cp = (...words: string[]): ReturnType<typeof run> =>
      run([launcher, '--socket', host.daemon.socketPath, 'vm', 'cp', ...words], { timeoutMs: 120_000 });
    await cp('-r', site, 'web1:/srv');
    assert.equal((await host.exec('web1', ['/srv/run.sh'])).output, 'it ran\n');
    assert.equal((await host.exec('web1', ['readlink', '/srv/link'])).output, 'sub/data\n');
    await cp('-r', 'web1:/srv', back);
    await run(['diff', '-r', site, back]);
    assert.equal((await stat(join(back, 'run.sh'))).mode & 0o777, 0o750);
    assert.equal((await host.exec('web1', ['sh', '-c', 'ls -a /srv /tmp | grep tar'])).output, '');
    // One file keeps its permissions too, and a folder is asked for by -r.
    await cp(join(site, 'run.sh'), 'web1:/tmp');
    assert.equal((await host.exec('web1', ['stat', '-c', '%a', '/tmp/run.sh'])).output, '750\n');
    await assert.rejects(cp('web1:/srv', back), /web1:\/srv is a folder[^]*lodge vm cp -r web1:\/srv/);
  });

  await context.test('its file systems are frozen and thawed', async () => {
    const { fileSystems } = await host.client.vm.freeze({ params: { vm: 'web1' }, query });
    const thawed = await host.client.vm.thaw({ params: { vm: 'web1' }, query });
    // Its root is in memory: there is nothing to freeze, which is not an error.
    assert.deepEqual([fileSystems, thawed.fileSystems], [0, 0]);
    assert.equal((await host.exec('web1', ['echo', 'thawed'])).output, 'thawed\n');
  });

  await context.test('it tells of itself, and what it was started with is what it has', async () => {
    const info = await host.client.vm.guestInfo({ params: { vm: 'web1' }, query });
    const { status } = await host.until('web1', 'is known', (vm) => vm.status.guest?.osName !== null, 30_000);
    assert.equal(info.os?.id, 'lodge-tiny');
    assert.equal(info.interfaces.find(({ mac }) => mac === status.nics[0]!.mac)?.mac, status.nics[0]!.mac);
    const { output } = await host.exec('web1', ['cat', '/proc/cpuinfo']);
    assert.equal(output.match(/^processor/gm)?.length, 2);
    assert.match(output, /\bsse4_2\b/);
    assert.doesNotMatch(output, /\bavx2\b/);
    assert.equal(status.pinned?.cpuModel.split(',')[0], 'qemu64');
  });

  await context.test('a non-maskable interrupt arrives', async () => {
    const count = async (): Promise<number> => {
      const { output } = await host.exec('web1', ['grep', 'NMI', '/proc/interrupts']);
      return output.match(/\d+/g)!.reduce((sum, number) => sum + Number(number), 0);
    };
    const before = await count();
    await host.client.vm.injectNmi({ params: { vm: 'web1' }, query });
    await eventually(async () => (await count()) > before, { timeoutMs: 30_000, describe: 'it was counted' });
  });

  await context.test('its use of resources is measured', async () => {
    const { items } = await host.client.vm.usage({});
    const usage = items.find(({ name }) => name === 'web1');
    assert.ok(usage && usage.memoryMib! > 50);
    assert.equal(usage.networkSentBytes, null, 'nobody counts a user-mode network');
  });

  await context.test('its memory outlives it: what ran before it was suspended runs on', async () => {
    await host.exec('web1', ['sh', '-c', 'echo remembered > /tmp/note']);
    const before = await host.vm('web1');
    await host.done(host.client.vm.suspend({ params: { vm: 'web1' }, query }));
    const suspended = await host.vm('web1');
    assert.deepEqual([suspended.status.state, suspended.status.pid], ['suspended', null]);
    await host.done(host.client.vm.start({ params: { vm: 'web1' }, query }));
    const after = await host.untilUp('web1');
    assert.notEqual(after.status.pid, before.status.pid);
    assert.equal((await host.exec('web1', ['cat', '/tmp/note'])).output, 'remembered\n');
    assert.deepEqual(after.status.pinned?.machine, before.status.pinned?.machine);
  });

  await context.test('it shuts down when it is asked to', async () => {
    await host.done(host.client.vm.stop({ params: { vm: 'web1' }, query, body: { timeoutS: 60 } }));
    const { lastExit } = (await host.vm('web1')).status;
    assert.equal(lastExit?.cause, 'stopped', lastExit?.message);
  });
});

test('other machine types and processors', { timeout: 300_000 }, async (context) => {
  const host = await qemuDaemon(context);
  await host.create('small', { machine: 'microvm', cpu: { model: 'x86-64-v3' }, nics: [{ network: 'default' }] });
  await host.create('old', { machine: 'pc', cpu: { model: 'Nehalem', disable: ['sse4.2'] } });
  const small = await host.untilUp('small');
  const old = await host.untilUp('old');
  assert.equal(small.status.pinned?.machine, 'microvm');
  assert.match(old.status.pinned?.machine ?? '', /^pc-i440fx-/);

  const flags = async (name: string): Promise<string> =>
    (await host.exec(name, ['grep', 'flags', '/proc/cpuinfo'])).output;
  assert.match(await flags('small'), /\bavx2\b/);
  assert.match(await flags('old'), /\bssse3\b/);
  assert.doesNotMatch(await flags('old'), /\bsse4_2\b/);

  // Its tap is counted.
  await eventually(
    async () => {
      const { items } = await host.client.vm.usage({});
      const usage = items.find(({ name }) => name === 'small');
      return (usage?.networkSentBytes ?? 0) > 0 && (usage?.networkReceivedBytes ?? 0) > 0;
    },
    { timeoutMs: 30_000, describe: 'the guest’s traffic is counted', intervalMs: 600 },
  );

  for (const name of ['small', 'old']) {
    await host.done(host.client.vm.stop({ params: { vm: name }, query, body: { timeoutS: 60 } }));
    const { lastExit } = (await host.vm(name)).status;
    assert.equal(lastExit?.cause, 'stopped', `${name}: ${lastExit?.message}`);
  }

  // One that has only just begun to boot does not hear the button the first time.
  await host.done(host.client.vm.start({ params: { vm: 'old' }, query }));
  await host.done(host.client.vm.stop({ params: { vm: 'old' }, query, body: { timeoutS: 100 } }));
  assert.equal((await host.vm('old')).status.lastExit?.cause, 'stopped');

  const body = { name: 'new', spec: { image: 'tiny', nics: [], cpu: { model: 'x86-64-v4' } } };
  const { accelerator } = (await host.node()).status;
  if (accelerator?.chosen === 'tcg') {
    const error = await host.failed(host.client.vm.create({ query: { start: true }, body }));
    assert.equal(error.code, 'unsupported');
    assert.match(error.message, /avx512f/, 'emulation has no AVX-512, and does not pretend to');
  }
});

test('firmware screens, keys and VNC', { timeout: 300_000 }, async (context) => {
  const host = await qemuDaemon(context);
  const firmware = (type: 'bios' | 'uefi'): object => ({ image: undefined, memoryMib: 256, firmware: { type } });
  await host.create('uefi', firmware('uefi'));
  await host.create('bios', firmware('bios'));

  const { stream, path } = await openConsole(host, 'bios', 'vnc');
  assert.match(await readUntil(stream, /\n/), /^RFB 003\.00\d\n/);
  stream.write('RFB 003.008\n');
  await readUntil(stream, /[^]{2}/);
  stream.destroy();
  await assert.rejects(host.daemon.connection.openWebSocket(path), { code: 'not_found' });

  const shows = async (name: string): Promise<void> => {
    await eventually(async () => (await screenshot(host, name)).picture.colours > 1, {
      timeoutMs: 120_000,
      describe: `${name} shows something`,
      intervalMs: 500,
    });
    const { picture } = await screenshot(host, name);
    assert.ok(picture.width >= 640 && picture.height >= 400, `${picture.width}×${picture.height}`);
  };
  await shows('bios');
  await shows('uefi');

  await assert.rejects(
    host.client.vm.sendKeys({ params: { vm: 'bios' }, query, body: { combinations: [['nosuchkey']], holdMs: 10 } }),
    { code: 'invalid_request' },
  );
  // Without anything to boot, UEFI ends in a menu or asks for a key; either answers to keys.
  let before = (await screenshot(host, 'uefi')).bytes;
  await eventually(
    async () => {
      const now = (await screenshot(host, 'uefi')).bytes;
      const isStill = now.equals(before);
      before = now;
      return isStill;
    },
    { timeoutMs: 120_000, describe: 'the screen has come to rest', intervalMs: 3000 },
  );
  const body = { combinations: [['down'], ['ret']], holdMs: 50 };
  await eventually(
    async () => {
      await host.client.vm.sendKeys({ params: { vm: 'uefi' }, query, body });
      return !(await screenshot(host, 'uefi')).bytes.equals(before);
    },
    { timeoutMs: 60_000, describe: 'the screen answers to keys', intervalMs: 1000 },
  );

  // What UEFI has written to its variables is the VM's own, and stays.
  await host.done(host.client.vm.forceOff({ params: { vm: 'uefi' }, query }));
  await host.done(host.client.vm.start({ params: { vm: 'uefi' }, query }));
  assert.equal((await host.vm('uefi')).status.pinned?.firmware, 'uefi');
});

/** A boot sector that says on COM1 that it runs: `mov dx,0x3f8; mov al,'K'; out dx,al; hlt`. */
const sector = [0xba, 0xf8, 0x03, 0xb0, 0x4b, 0xee, 0xf4, 0xeb, 0xfd];

test(
  'under KVM a guest without an operating system runs, or is refused with the reason',
  { timeout: 180_000 },
  async (context) => {
    const host = await qemuDaemon(context);
    const folder = await temporaryFolder(context);
    const path = join(folder, 'sector.img');
    const disk = Buffer.alloc(1024 * 1024);
    Buffer.from(sector).copy(disk);
    disk.writeUInt16LE(0xaa55, 510);
    await writeFile(path, disk);
    await host.done(host.client.image.create({ body: { name: 'sector', spec: { source: { type: 'file', path } } } }));
    const spec = { image: 'sector', accelerator: 'kvm', memoryMib: 64, display: 'none' } as const;
    const { accelerators } = (await host.node()).status;
    const rung = accelerators.find(({ rung, isUsable }) => rung !== 'tcg' && isUsable);
    if (!rung) {
      await assert.rejects(
        host.create('rom', spec),
        (error: Error & { code?: string; fields?: { field: string }[] }) => {
          assert.equal(error.code, 'unsupported');
          assert.equal(error.fields?.[0]?.field, 'spec.accelerator');
          return true;
        },
      );
      return;
    }
    const vm = await host.create('rom', spec);
    assert.deepEqual([vm.status.pinned?.accelerator, vm.status.pinned?.rung], ['kvm', rung.rung]);
    assert.match(vm.status.pinned!.arguments.join(' '), /-accel kvm,device=\/dev\/fdset\//);
    const log = async (): Promise<string> =>
      (await host.client.vm.serialLog({ params: { vm: 'rom' }, query: { ...query, bytes: 100 } })).text();
    await eventually(async () => (await log()).includes('K'), {
      timeoutMs: 120_000,
      describe: 'the boot sector runs',
      intervalMs: 200,
    });
  },
);
