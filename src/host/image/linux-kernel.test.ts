import assert from 'node:assert/strict';
import { test } from 'node:test';
import { locateKernelPayload, parseModuleInfo, writeModuleIndexes, type KernelModule } from './linux-kernel.ts';

/** A bzImage as far as its header goes: two setup sectors, payload 16 bytes into the rest. */
function bzImage(payload: Buffer, protocol = 0x20f): Buffer {
  const image = Buffer.alloc(3 * 512 + 16 + payload.length);
  image[0x1f1] = 2;
  image.write('HdrS', 0x202, 'latin1');
  image.writeUInt16LE(protocol, 0x206);
  image.writeUInt32LE(16, 0x248);
  image.writeUInt32LE(payload.length, 0x24c);
  payload.copy(image, 3 * 512 + 16);
  return image;
}

test('the payload lies where the header says, without the length behind it', () => {
  const lz4 = Buffer.concat([Buffer.from('02214c18', 'hex'), Buffer.alloc(100, 1)]);
  assert.deepEqual(locateKernelPayload(bzImage(lz4)), { compression: 'lz4', start: 1552, end: 1552 + 100 });
  const gzip = Buffer.concat([Buffer.from('1f8b08', 'hex'), Buffer.alloc(100, 1)]);
  assert.deepEqual(locateKernelPayload(bzImage(gzip)), { compression: 'gzip', start: 1552, end: 1552 + 103 });
});

test('what is no kernel, too old, cut off or packed in an unknown way is refused', () => {
  const good = bzImage(Buffer.concat([Buffer.from('28b52ffd', 'hex'), Buffer.alloc(100)]));
  assert.throws(() => locateKernelPayload(Buffer.alloc(4096)), { problem: 'corrupt', message: /not a bzImage/ });
  assert.throws(() => locateKernelPayload(bzImage(Buffer.alloc(100), 0x207)), { problem: 'corrupt', message: /2\.08/ });
  assert.throws(() => locateKernelPayload(good.subarray(0, good.length - 1)), { problem: 'corrupt', message: /ends/ });
  assert.throws(() => locateKernelPayload(bzImage(Buffer.alloc(100, 0xaa))), { problem: 'corrupt', message: /aaaa/ });
});

test('a module tells what it needs and what it drives', () => {
  const data = Buffer.from(
    '\x7fELF\0junk\0license=GPL\0depends=virtio-ring,virtio\0alias=virtio:d1v*\0alias=x\0softdep=pre: crc post: y\0name=z\0',
    'latin1',
  );
  assert.deepEqual(parseModuleInfo(data), {
    dependencies: ['virtio_ring', 'virtio', 'crc'],
    aliases: ['virtio:d1v*', 'x'],
  });
  assert.deepEqual(parseModuleInfo(Buffer.from('\0depends=\0', 'latin1')), { dependencies: [], aliases: [] });
});

test('modules.dep names what to load first last, as modprobe wants it', () => {
  const module = (name: string, dependencies: string[], aliases: string[] = []): KernelModule => ({
    name,
    path: `kernel/${name}.ko`,
    data: Buffer.alloc(0),
    dependencies,
    aliases,
  });
  const modules = [
    module('ring', []),
    module('virtio', ['ring']),
    module('net', ['virtio', 'builtin'], ['virtio:d1*']),
  ];
  const { dep, alias } = writeModuleIndexes(modules);
  assert.equal(
    dep,
    'kernel/ring.ko:\nkernel/virtio.ko: kernel/ring.ko\nkernel/net.ko: kernel/virtio.ko kernel/ring.ko\n',
  );
  assert.equal(alias, 'alias virtio:d1* net\n');
});
