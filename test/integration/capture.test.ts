// Captured packets on real links, and what keeps a capture from beginning.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  captureLink,
  CaptureError,
  CaptureFilterError,
  checkFilter,
  type CaptureOptions,
} from '../../src/host/network/capture.ts';
import { run } from '../../src/host/command.ts';
import { findProcesses } from '../../src/host/process.ts';
import { assertRefused, makeVm, startFakeLodge } from '../support/fake-lodge.ts';
import { cable, connectTo, tellAddresses } from '../support/guest-namespace.ts';
import { networkNamespace } from '../support/namespace.ts';

const everything = { filter: '', snapLength: 65_535, maxPackets: null, maxBytes: 1_000_000, maxMs: 30_000 };

/** What tcpdump reads in a capture, a line a packet. */
async function read(pcap: Buffer): Promise<string[]> {
  const { stdout } = await run(['tcpdump', '-nr', '-'], { input: pcap });
  return stdout.trim().split('\n').filter(Boolean);
}

test('packets that a filter means are captured, by a program without privileges, up to the bound that is reached first', async (t) => {
  const [one, other] = [await networkNamespace(t), await networkNamespace(t)];
  await cable(one, other, [
    ['cap0', '192.0.2.1/24'],
    ['cap1', '192.0.2.2/24'],
  ]);
  await tellAddresses(t, other, 8080);
  const scope = { netns: one.name };
  const gather = async (options: Partial<CaptureOptions>): Promise<Buffer> => {
    const chunks: Uint8Array[] = [];
    let isBegun = false;
    for await (const chunk of captureLink({ link: 'cap0', ...everything, ...options }, scope)) {
      chunks.push(chunk);
      if (isBegun) continue;
      isBegun = true;
      // It listens: the header of the file is written when the link is open.
      const found = await findProcesses({ matchesArguments: (argv) => argv[0] === 'tcpdump' && argv.includes('cap0') });
      const { stdout } = await run(['ps', '-o', 'uid=', '-p', found.map(({ identity }) => identity.pid).join()]);
      assert.equal(stdout.trim(), '65534');
      for (let count = 0; count < 3; count++) assert.equal(await connectTo(one, '192.0.2.2', 8080), '192.0.2.1');
    }
    return Buffer.concat(chunks);
  };
  const some = await read(await gather({ filter: 'tcp port 8080', maxPackets: 4 }));
  assert.equal(some.length, 4);
  assert.match(some[0] ?? '', /192\.0\.2\.1\.\d+ > 192\.0\.2\.2\.8080: Flags \[S\]/);
  const small = await gather({ filter: 'tcp port 8080', maxBytes: 500 });
  assert.ok(small.length <= 500);
  assert.ok((await read(small)).length > 0, 'it is whole');
  const left = await findProcesses({ matchesArguments: (argv) => argv[0] === 'tcpdump' && argv.includes('cap0') });
  assert.deepEqual(left, []);

  await checkFilter('port 53 and not host 192.0.2.7');
  await assert.rejects(checkFilter('prot 53'), CaptureFilterError);
  await assert.rejects(checkFilter('-w /tmp/x'), CaptureFilterError);
  const gone = captureLink({ link: 'nolink0', ...everything }, scope);
  await assert.rejects(async () => gone.next(), CaptureError);
});

test('a capture that can not begin is refused with what is wrong, and counters are those of the links', async (t) => {
  const { daemon } = await startFakeLodge(t);
  const { client } = daemon;
  await client.network.create({ body: { name: 'alone', spec: { mode: 'user' } } });
  await makeVm(daemon, 'web1', { nics: [{ network: 'default' }, { network: 'alone' }] }, { start: true });
  await makeVm(daemon, 'off', { nics: [{ network: 'default' }] });
  const ask = (vm: string, query: object): Promise<unknown> => client.vm.capture({ params: { vm }, query });
  await assertRefused(daemon, ask('web1', { filter: 'prot 53' }), 'invalid_request', 'filter');
  await assertRefused(daemon, ask('web1', { nic: 2 }), 'invalid_request', 'nic');
  await assertRefused(daemon, ask('web1', { nic: 1 }), 'unsupported');
  await assertRefused(daemon, ask('off', {}), 'wrong_state');
  const { items } = await client.vm.nicCounters({ params: { vm: 'web1' } });
  assert.deepEqual(
    items.map(({ index, network, sentBytes }) => [index, network, sentBytes]),
    [[0, 'default', 0]],
  );
});
