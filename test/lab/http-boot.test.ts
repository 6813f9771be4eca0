// UEFI HTTP boot: the network's DHCP names a program by its http address, and the firmware loads and runs it. Slow, because
// the firmware tries PXE by both versions of IP before: not part of `npm test`. Needs root.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { run } from '../../src/host/command.ts';
import { makeLoader } from '../support/efi-disk.ts';
import { networkNamespace, serveIn } from '../support/namespace.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const bootMs = 900_000;
const port = 8080;
const serverAddress = '192.0.2.2';

/** Serves one file to everybody who asks for it, and says who did. */
const server = `
const { createServer } = await import('node:http');
const { readFileSync } = await import('node:fs');
const content = readFileSync(process.argv[1]);
createServer((request, response) => {
  console.log(request.method + ' ' + request.url + ' ' + request.headers['user-agent']);
  response.writeHead(200, { 'content-length': content.length, 'content-type': 'application/efi' });
  response.end(request.method === 'HEAD' ? undefined : content);
}).listen(${port}, '0.0.0.0', () => console.log('listening'));`;

test(
  'a UEFI guest boots a program that its network names by an http address',
  { timeout: 2 * bootMs },
  async (context) => {
    const host = await qemuDaemon(context, { images: [] });
    const folder = await temporaryFolder(context);
    const loader = await makeLoader(folder, { name: 'network', words: 'HTTP BOOTS', commands: 'sleep 9999' });
    // Guests reach nothing of their host but what serves them; the server stands outside.
    const outside = await networkNamespace(context);
    const peer = ['peer', 'inside0', 'netns', outside.name];
    await run(['ip', '-n', host.namespace.name, 'link', 'add', 'outside0', 'type', 'veth', ...peer]);
    for (const [{ name }, link, address] of [
      [host.namespace, 'outside0', '192.0.2.1/24'],
      [outside, 'inside0', `${serverAddress}/24`],
    ] as const) {
      await run(['ip', '-n', name, 'address', 'add', address, 'dev', link]);
      await run(['ip', '-n', name, 'link', 'set', link, 'up']);
    }
    const boot = { uefiFile: `http://${serverAddress}:${port}/network.efi` };
    await host.client.network.create({ body: { name: 'lab', spec: { mode: 'nat', ipv4Cidr: '10.98.0.0/24', boot } } });
    const asked: string[] = [];
    const lines = createInterface({ input: serveIn(context, outside, server, loader).stdout });
    await once(lines, 'line', { signal: AbortSignal.timeout(30_000) });
    lines.on('line', (line: string) => asked.push(line));
    const boots = async (name: string, bootIndex: number | undefined, agent: RegExp): Promise<void> => {
      const nics = [{ network: 'lab', ...(bootIndex === undefined ? {} : { bootIndex }) }];
      const firmware = { type: 'uefi' } as const;
      await host.create(name, { image: undefined, memoryMib: 256, display: 'none', firmware, nics });
      await eventually(async () => (await host.console(name)).includes('HTTP BOOTS'), {
        timeoutMs: bootMs,
        intervalMs: 1000,
        describe: `what ${name} has loaded by HTTP says that it runs`,
      });
      assert.match(asked.splice(0).join('\n'), agent);
      await host.done(host.client.vm.forceOff({ params: { vm: name }, query: { project: 'default' } }));
    };
    // A NIC that is not in the boot order has no boot ROM: then it is the firmware's own HTTP boot, after its PXE has failed.
    await boots('plain', undefined, /^GET \/network\.efi UefiHttpBoot/m);
    // The ROM is iPXE, which knows such an address too.
    await boots('with-rom', 1, /^GET \/network\.efi iPXE/m);
  },
);
