// What firmware runs and refuses, what it keeps, and which machine a guest takes itself for.
import assert from 'node:assert/strict';
import { mkdir, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { type Vm } from '../../src/api/vm.ts';
import { type LodgeError } from '../../src/api/errors.ts';
import { run } from '../../src/host/command.ts';
import { findProcesses } from '../../src/host/process.ts';
import { loaderWords, makeEfiDisk, makeLoader } from '../support/efi-disk.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const bootMs = 120_000;

/** A daemon with the images `unsigned` and `signed`: the same loader, without a signature and with one by `certificate`. */
async function hostWithLoaders(context: TestContext): Promise<{ host: QemuDaemon; certificate: string }> {
  const host = await qemuDaemon(context);
  const folder = join(host.daemon.folder, 'loaders');
  await mkdir(folder, { mode: 0o755 });
  const [key, certificate, signed] = ['key.pem', 'certificate.pem', 'signed.efi'].map((name) => join(folder, name));
  const loader = await makeLoader(folder);
  await run(
    `openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=test -keyout ${key} -out ${certificate}`.split(
      ' ',
    ) as [string, ...string[]],
  );
  await run(['sbsign', '--key', key!, '--cert', certificate!, '--output', signed!, loader]);
  for (const [name, file] of [
    ['unsigned', loader],
    ['signed', signed!],
  ] as const) {
    const path = join(folder, `${name}.img`);
    await makeEfiDisk(path, file);
    const spec = { source: { type: 'file', path, format: 'raw' } } as const;
    await host.done(host.client.image.create({ body: { name, spec } }));
  }
  return { host, certificate: await readFile(certificate!, 'utf8') };
}

function create(
  host: QemuDaemon,
  name: string,
  image: string,
  secureBoot?: Vm['spec']['firmware']['secureBoot'],
): Promise<Vm> {
  const firmware = { type: 'uefi', ...(secureBoot ? { secureBoot } : {}) } as const;
  return host.create(name, { image, memoryMib: 256, display: 'none', firmware });
}

async function serialLog(host: QemuDaemon, name: string): Promise<string> {
  return (await host.client.vm.serialLog({ params: { vm: name }, query: { ...query, bytes: 65_536 } })).text();
}

/** Waits until the loader has run and switched the machine off. */
async function untilLoaderRan(host: QemuDaemon, name: string): Promise<void> {
  const vm = await host.until(
    name,
    'is switched off by its loader',
    ({ status }) => status.state === 'stopped',
    bootMs,
  );
  assert.equal(vm.status.lastExit?.cause, 'guest-shutdown');
  assert.match(await serialLog(host, name), new RegExp(loaderWords));
}

test(
  'an unsigned loader runs without Secure Boot and is refused with it; what is signed by an own key runs',
  { timeout: 400_000 },
  async (context) => {
    const { host, certificate } = await hostWithLoaders(context);

    await create(host, 'plain', 'unsigned');
    await create(host, 'microsoft', 'unsigned', { isEnabled: true, keys: 'microsoft', ownCertificates: [] });
    await untilLoaderRan(host, 'plain');
    await eventually(async () => /Access Denied/.test(await serialLog(host, 'microsoft')), {
      timeoutMs: bootMs,
      describe: 'the firmware refuses the unsigned loader',
    });
    assert.doesNotMatch(await serialLog(host, 'microsoft'), new RegExp(loaderWords));
    assert.equal((await host.vm('microsoft')).status.state, 'running');
    await host.done(host.client.vm.forceOff({ params: { vm: 'microsoft' }, query }));

    await create(host, 'own', 'signed', { isEnabled: true, keys: 'own', ownCertificates: [certificate] });
    await untilLoaderRan(host, 'own');

    // Other keys than the store was made with: said, and not done unasked.
    const own = await host.vm('own');
    own.spec.firmware.secureBoot = { isEnabled: true, keys: 'microsoft', ownCertificates: [] };
    await host.client.vm.update({ params: { vm: 'own' }, query, body: { spec: own.spec } });
    const otherKeys = await host.failed(host.client.vm.start({ params: { vm: 'own' }, query }));
    assert.equal(otherKeys.code, 'wrong_state');
    assert.match(otherKeys.message, /has other keys of your own/);

    // What is damaged or missing is said, and made anew when somebody asks for it.
    const plain = await host.vm('plain');
    const store = join(host.daemon.folder, 'data', 'vms', plain.id, 'uefi-variables.fd');
    const file = await open(store, 'r+');
    await file.write(Buffer.alloc(64), 0, 64, 0);
    await file.close();
    const damaged = await host.failed(host.client.vm.start({ params: { vm: 'plain' }, query }));
    assert.match(
      `${damaged.code}: ${damaged.message} ${damaged.hint}`,
      /^wrong_state: .*is damaged: .*lodge vm firmware reset plain/,
    );
    await rm(store);
    const missing = await host.failed(host.client.vm.start({ params: { vm: 'plain' }, query }));
    assert.match(missing.message, /is missing/);
    await host.client.vm.resetFirmware({ params: { vm: 'plain' }, query, body: { what: 'variables' } });
    await host.done(host.client.vm.start({ params: { vm: 'plain' }, query }));
    await untilLoaderRan(host, 'plain');
  },
);

test('a guest takes itself for the machine that it is told to be', { timeout: 300_000 }, async (context) => {
  const host = await qemuDaemon(context);
  const smbios = {
    manufacturer: 'ACME, Inc.',
    product: 'Anvil',
    serial: 'S-0001',
    uuid: '00112233-4455-4677-8899-aabbccddeeff',
    assetTag: 'A7',
    sku: 'K3',
    family: 'Tools',
    oemStrings: ['first', 'second=2,3'],
  };
  await host.create('web1', { smbios });
  const vm = await host.untilUp('web1');
  assert.match(vm.status.generationId ?? '', /^[0-9a-f]{8}-[0-9a-f]{4}-4/);
  const files = [
    'sys_vendor',
    'product_name',
    'product_serial',
    'product_uuid',
    'chassis_asset_tag',
    'product_sku',
    'product_family',
  ];
  const { output } = await host.exec('web1', [
    'sh',
    '-c',
    `cd /sys/class/dmi/id && cat ${files.join(' ')}; strings /sys/firmware/dmi/tables/DMI | grep -E '^(first|second)'; ls /sys/bus/acpi/devices`,
  ]);
  assert.deepEqual(output.split('\n').slice(0, 9), [
    smbios.manufacturer,
    smbios.product,
    smbios.serial,
    smbios.uuid,
    smbios.assetTag,
    smbios.sku,
    smbios.family,
    'first',
    'second=2,3',
  ]);
  assert.match(output, /QEMUVGID/);

  // It stays over suspension and a start, and nothing else of a stopped VM is reset that it does not have.
  await host.done(host.client.vm.suspend({ params: { vm: 'web1' }, query }));
  await host.done(host.client.vm.start({ params: { vm: 'web1' }, query }));
  assert.equal((await host.exec('web1', ['cat', '/sys/class/dmi/id/product_serial'])).output.trim(), 'S-0001');
  const after = await host.vm('web1');
  assert.equal(after.status.generationId, vm.status.generationId);
  await host.done(host.client.vm.forceOff({ params: { vm: 'web1' }, query }));
  await assert.rejects(
    async () => host.client.vm.resetFirmware({ params: { vm: 'web1' }, query, body: { what: 'variables' } }),
    /has no UEFI variable store: it boots by direct/,
  );
});

test(
  'a TPM is the VM’s own, lives as long as its guest, and is never made anew unasked',
  { timeout: 300_000 },
  async (context) => {
    const host = await qemuDaemon(context);
    const start = (): Promise<Vm> =>
      host.done(host.client.vm.start({ params: { vm: 'web1' }, query })).then(() => host.vm('web1'));
    const off = (): Promise<unknown> => host.done(host.client.vm.forceOff({ params: { vm: 'web1' }, query }));
    const processes = async (id: string): Promise<number> => {
      const found = await findProcesses({ environmentVariable: 'LODGE_VM_TPM' });
      return found.filter(({ mark }) => mark === `${host.daemon.instance}/${id}`).length;
    };
    const folder = join(host.daemon.folder, 'loaders');
    await mkdir(folder, { mode: 0o755 });
    // The firmware tells of a TPM by the ACPI table TPM2.
    const path = join(folder, 'waiting.img');
    await makeEfiDisk(path, await makeLoader(folder, { commands: 'lsacpi\nsleep 9999' }));
    const source = { type: 'file', path, format: 'raw' } as const;
    await host.done(host.client.image.create({ body: { name: 'waiting', spec: { source } } }));
    const firmware = { type: 'uefi' } as const;
    const vm = await host.create('web1', {
      image: 'waiting',
      memoryMib: 256,
      display: 'none',
      firmware,
      tpm: { isEnabled: true },
    });
    await eventually(async () => /^TPM2 /m.test(await serialLog(host, 'web1')), {
      timeoutMs: bootMs,
      describe: 'the guest is told of a TPM',
    });
    assert.equal(await processes(vm.id), 1);

    // It is another process than the daemon's child, and goes with the guest, not with the daemon.
    await host.daemon.kill();
    await host.daemon.start();
    await host.until('web1', 'is running', ({ status }) => status.state === 'running');
    assert.equal(await processes(vm.id), 1);

    await host.done(host.client.vm.suspend({ params: { vm: 'web1' }, query }));
    assert.equal(await processes(vm.id), 0);
    assert.equal((await start()).status.state, 'running');
    assert.equal(await processes(vm.id), 1);
    await off();
    assert.equal(await processes(vm.id), 0);

    const own = join(host.daemon.folder, 'data', 'vms', vm.id);
    const [key, state] = [join(own, 'tpm.key'), join(own, 'tpm', 'tpm2-00.permall')];
    assert.equal((await stat(key)).mode & 0o777, 0o600);
    assert.equal((await stat(key)).uid, 0);
    assert.equal((await stat(state)).uid, vm.status.uid);
    const content = await readFile(state);
    const failed = (): Promise<LodgeError> => host.failed(host.client.vm.start({ params: { vm: 'web1' }, query }));

    await writeFile(key, Buffer.alloc(32, 1));
    assert.match((await failed()).message, /TPM of VM web1 can’t be read/);
    await rm(state);
    const lost = await failed();
    assert.match(
      `${lost.code}: ${lost.message} ${lost.hint}`,
      /^wrong_state: The state of the TPM of VM web1 is missing\..*--tpm/,
    );
    await host.client.vm.resetFirmware({ params: { vm: 'web1' }, query, body: { what: 'tpm' } });
    await start();
    assert.notDeepEqual(await readFile(state), content);
    await off();
  },
);
