// Bad input and bad surroundings: each gets one clear error in the one format, with the field where there is one, and
// leaves nothing half-made.
import assert from 'node:assert/strict';
import { mkdir, readdir, statfs, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { errorBody, errorCodes, type ErrorBody } from '../../src/api/errors.ts';
import { run } from '../../src/host/command.ts';
import { atEnd, type Cleanup } from '../support/cleanup.ts';
import { prepareDaemon, type TestDaemon } from '../support/daemon.ts';
import {
  assertRefused,
  done,
  makeVm,
  prepareFakeLodge,
  readVm,
  sharedFakeLodge,
  startFakeLodge,
} from '../support/fake-lodge.ts';
import { rawRequest } from '../support/stub-http.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();

/** Sends a body as it is, and gives the error it is refused with. */
async function send(
  daemon: TestDaemon,
  method: string,
  path: string,
  body: string | object,
  headers: Record<string, string> = {},
): Promise<ErrorBody['error'] & { status: number }> {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  const all = { 'content-type': 'application/json', ...headers };
  const answer = await rawRequest(daemon.socketPath, method, path, { headers: all, body: text });
  const { error } = errorBody.parse(JSON.parse(answer.text));
  assert.equal(answer.status, errorCodes[error.code].status);
  assert.ok(error.message !== '' && error.hint !== '' && error.requestId);
  return { ...error, status: answer.status };
}

async function assertEmpty(daemon: TestDaemon): Promise<void> {
  const { client } = daemon;
  assert.deepEqual((await client.vm.list()).items, []);
  assert.deepEqual((await client.volume.list()).items, []);
  assert.deepEqual((await client.image.list()).items, []);
  for (const folder of ['vms', 'volumes', 'images'])
    assert.deepEqual(await readdir(join(daemon.folder, 'data', folder)), [], folder);
}

suite('a VM that can not be', () => {
  const vm = (spec: unknown, rest: object = {}): object => ({ name: 'web1', spec, ...rest });
  const huge = 9_223_372_036_854_775_808n.toString();

  for (const [what, body, field] of [
    ['an unknown field', vm({ memory: 512 }), 'spec.memory'],
    ['an unknown field at the top', vm({}, { nmae: 'x' }), 'nmae'],
    ['a unit where a number is wanted', vm({ memoryMib: '2GiB' }), 'spec.memoryMib'],
    ['no memory', vm({ memoryMib: 0 }), 'spec.memoryMib'],
    ['negative memory', vm({ memoryMib: -1 }), 'spec.memoryMib'],
    ['a fraction of memory', vm({ memoryMib: 512.5 }), 'spec.memoryMib'],
    ['2^63 memory', `{"name":"web1","spec":{"memoryMib":${huge}}}`, 'spec.memoryMib'],
    ['1e400 memory', '{"name":"web1","spec":{"memoryMib":1e400}}', 'spec.memoryMib'],
    ['no vCPU', vm({ cpu: { count: 0 } }), 'spec.cpu.count'],
    ['more vCPUs than any machine has', vm({ cpu: { count: 100_000 } }), 'spec.cpu.count'],
    ['a CPU model that there is not', vm({ cpu: { model: 'i8080' } }), 'spec.cpu.model'],
    ['a disk of no size', vm({ disks: [{ name: 'a', sizeMib: 0 }] }), 'spec.disks.0.sizeMib'],
    ['a disk without a size', vm({ disks: [{ name: 'a' }] }), 'spec.disks.0.sizeMib'],
    ['a disk of 2^63', `{"name":"web1","spec":{"disks":[{"name":"a","sizeMib":${huge}}]}}`, 'spec.disks.0.sizeMib'],
    [
      'two disks of one name',
      vm({
        disks: [
          { name: 'a', sizeMib: 1 },
          { name: 'a', sizeMib: 1 },
        ],
      }),
      'spec.disks.1.name',
    ],
    ['a disk that is two things', vm({ disks: [{ name: 'a', sizeMib: 1, volume: 'b' }] }), 'spec.disks.0'],
    ['a multicast MAC address', vm({ nics: [{ mac: '01:00:5e:00:00:01' }] }), 'spec.nics.0.mac'],
    [
      'two NICs of one address',
      vm({ nics: [{ mac: '52:54:00:00:00:01' }, { mac: '52:54:00:00:00:01' }] }),
      'spec.nics.1.mac',
    ],
    ['an address that is none', vm({ nics: [{ ipv4Address: '10.0.0.256' }] }), 'spec.nics.0.ipv4Address'],
    ['direct boot without a kernel', vm({ nics: [], firmware: { type: 'direct' } }), 'spec.firmware.type'],
    ['a microvm without a kernel', vm({ nics: [], machine: 'microvm' }), 'spec.machine'],
    ['a line break in the kernel’s command line', vm({ firmware: { commandLineExtra: 'a\nb' } }), /commandLineExtra/],
    ['an SSH key of two lines', vm({ cloudInit: { sshKeys: ['ssh-rsa AAAA\nssh-rsa BBBB'] } }), /sshKeys/],
    ['user-data that is no YAML', vm({ nics: [], cloudInit: { userData: '#cloud-config\n{a: [' } }), /userData/],
    ['a name with ../', { name: '../../etc/passwd', spec: {} }, 'name'],
    ['a name with a line break', { name: 'web1\n', spec: {} }, 'name'],
    ['a name of look-alikes', { name: 'ｗeb1', spec: {} }, 'name'],
    ['a name written from right to left', { name: '\u202eweb', spec: {} }, 'name'],
    ['a name of capitals', { name: 'Web1', spec: {} }, 'name'],
    ['a name of 64 characters', { name: 'a'.repeat(64), spec: {} }, 'name'],
    ['no name', { spec: {} }, 'name'],
    ['an empty name', { name: '', spec: {} }, 'name'],
    ['a label of spaces', vm({}, { labels: { a: 'b c' } }), /labels/],
    ['a project that is none', vm({}, { project: '../x' }), 'project'],
    ['a list where an object is wanted', '[]', /./],
    ['nothing', 'null', /./],
  ] as const) {
    test(`${what} is told by its field`, async (t) => {
      const { daemon } = await lodge(t);
      const error = await send(daemon, 'POST', '/v1/vms?start=true', body);
      assert.equal(error.code, 'invalid_request', error.message);
      const fields = error.fields?.map((problem) => problem.field) ?? [];
      const isNamed = fields.some((name) => (typeof field === 'string' ? name === field : field.test(name)));
      assert.ok(isNamed, `names ${fields.join(', ') || 'no field'}: ${error.message}`);
      assert.ok(!/[\0\n\u202e]/.test(error.message), 'what was given is shown harmless');
      await assertEmpty(daemon);
    });
  }

  test('more memory than the node has is told with how much it has', async (t) => {
    const { daemon } = await lodge(t);
    const error = await send(daemon, 'POST', '/v1/vms', vm({ memoryMib: 16_777_216 }));
    assert.equal(error.code, 'insufficient_resources');
    assert.match(error.message, /16777216 MiB .* \(\d+ MiB\)/);
    assert.equal(error.fields?.[0]?.field, 'spec.memoryMib');
    await assertEmpty(daemon);
  });

  test('things that do not exist are told by their names', async (t) => {
    const { daemon } = await lodge(t);
    for (const [spec, name] of [
      [{ nics: [{ network: 'nowhere' }] }, 'nowhere'],
      [{ nics: [], image: 'nothing' }, 'nothing'],
      [{ nics: [], disks: [{ name: 'a', volume: 'nobody' }] }, 'nobody'],
      [{ nics: [], disks: [{ name: 'a', image: 'none' }] }, 'none'],
      [{ nics: [], disks: [{ name: 'a', image: 'noiso', device: 'cdrom' }] }, 'noiso'],
    ] as const) {
      const error = await send(daemon, 'POST', '/v1/vms', vm(spec));
      assert.equal(error.code, 'not_found', error.message);
      assert.ok(error.message.includes(name), error.message);
    }
    const elsewhere = await send(daemon, 'POST', '/v1/vms', vm({}, { project: 'other' }));
    assert.equal(elsewhere.code, 'not_found', 'a network of another project is not seen');
    await assertEmpty(daemon);
  });
});

suite('a request that is none', () => {
  for (const [what, body, headers, code] of [
    [
      '10 MB of body',
      JSON.stringify({ name: 'web1', spec: { description: 'x'.repeat(10_000_000) } }),
      {},
      'body_too_large',
    ],
    ['deep JSON', `${'['.repeat(100_000)}${']'.repeat(100_000)}`, {}, 'invalid_request'],
    ['deep objects', `${'{"a":'.repeat(50_000)}1${'}'.repeat(50_000)}`, {}, 'invalid_request'],
    ['a zero byte in a name', '{"name":"web\\u0000"}', {}, 'invalid_request'],
    ['half of JSON', '{"name":', {}, 'invalid_request'],
    ['two values', '{}{}', {}, 'invalid_request'],
    ['a key twice as prototype', '{"name":"web1","__proto__":{"spec":{}}}', {}, 'invalid_request'],
    [
      'another media type',
      'name=web1',
      { 'content-type': 'application/x-www-form-urlencoded' },
      'unsupported_media_type',
    ],
    ['broken UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d]).toString('latin1'), {}, 'invalid_request'],
  ] as const) {
    test(`${what} is refused, and the daemon goes on`, async (t) => {
      const { daemon } = await lodge(t);
      const error = await send(daemon, 'POST', '/v1/vms', body, headers);
      assert.equal(error.code, code, error.message);
      assert.equal((await daemon.client.server.healthz()).status, 'ok');
      await assertEmpty(daemon);
    });
  }

  test('for an object that does not exist is told so, whatever it is called', async (t) => {
    const { daemon } = await lodge(t);
    for (const noun of ['vms', 'images', 'volumes', 'networks', 'tasks', 'nodes']) {
      for (const name of ['nothing', 'constructor', '__proto__', 'a%00b', '..%2f..', '%F0%9F%99%82', 'x'.repeat(300)]) {
        const error = await send(daemon, 'GET', `/v1/${noun}/${name}`, '');
        assert.ok(['not_found', 'invalid_request'].includes(error.code), `${noun} ${name}: ${error.code}`);
      }
    }
  });
});

suite('a machine that does not have what it takes', () => {
  /** A file system of a few MiB. */
  async function smallFileSystem(test: Cleanup, path: string, sizeMib: number): Promise<void> {
    await mkdir(path, { recursive: true });
    await run(['mount', '-t', 'tmpfs', '-o', `size=${sizeMib}M,mode=0711`, 'lodge-test', path]);
    atEnd(test, () => run(['umount', '--lazy', path]));
  }

  test('a full disk is told, leaves nothing half-made, and all goes on when there is room again', async (t) => {
    const { daemon } = await prepareFakeLodge(t);
    const data = join(daemon.folder, 'data');
    await smallFileSystem(t, data, 32);
    await daemon.start();
    await makeVm(daemon, 'before', { disks: [{ name: 'data', sizeMib: 8 }] });
    const source = join(daemon.folder, 'large.raw');
    const content = Buffer.alloc(40 * 2 ** 20, 1);
    content.writeUInt16LE(0xaa55, 510);
    await writeFile(source, content);
    const large = { name: 'large', spec: { source: { type: 'file', path: source } } } as const;
    await assertRefused(daemon, daemon.client.image.create({ body: large }), 'storage_full');
    assert.deepEqual(await readdir(join(data, 'images')), []);

    const { bavail, bsize } = await statfs(data);
    await writeFile(join(data, 'filler'), Buffer.alloc(bavail * bsize)).catch(() => {});
    const body = { name: 'during', spec: { nics: [], disks: [{ name: 'data', sizeMib: 8 }] } };
    await assertRefused(daemon, daemon.client.vm.create({ body }), 'storage_full');
    assert.equal((await readVm(daemon, 'before')).status.state, 'stopped', 'reading goes on');

    await run(['rm', join(data, 'filler')]);
    await eventually(async () => (await daemon.client.vm.list()).items.every(({ name }) => name === 'before'));
    await makeVm(daemon, 'after', { disks: [{ name: 'data', sizeMib: 8 }] }, { start: true });
    await done(daemon, daemon.client.vm.start({ params: { vm: 'before' } }));
    await daemon.restart('kill');
    assert.deepEqual(
      (await daemon.client.vm.list()).items.map(({ name, status }) => [name, status.state]),
      [
        ['after', 'running'],
        ['before', 'running'],
      ],
    );
    assert.equal((await readdir(join(data, 'volumes'))).length, 2);
  });

  test('a TCP port that is taken ends the start with its number', async (t) => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    atEnd(t, () => taken.close());
    const { port } = taken.address() as AddressInfo;
    const daemon = await prepareDaemon(t, { driver: 'fake', listen: `127.0.0.1:${port}` });
    await assert.rejects(daemon.start(), new RegExp(`ended with code 1[^]*${port}`));
  });

  test('a second daemon on the same data is refused, and the first is not disturbed', async (t) => {
    const { daemon, namespace } = await startFakeLodge(t);
    await makeVm(daemon, 'web1', {}, { start: true });
    const second = await prepareDaemon(t, {
      driver: 'fake',
      namespace,
      config: { dataDir: join(daemon.folder, 'data') },
    });
    await assert.rejects(second.start(), /ended with code 1[^]*(in use|another|locked)/i);
    assert.equal((await readVm(daemon, 'web1')).status.state, 'running');
    await done(daemon, daemon.client.vm.stop({ params: { vm: 'web1' }, body: {} }));
  });
});
