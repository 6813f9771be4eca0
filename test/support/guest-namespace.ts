// Network namespaces as stand-ins for guests and for the outside world: cabled to a bridge or to each other by veth
// pairs, with a DHCP client and small programs that ask names and connect.
import { once } from 'node:events';
import { join } from 'node:path';
import { type Cleanup } from './cleanup.ts';
import { markedName } from './mark.ts';
import { networkNamespace, serveIn, type NetworkNamespace } from './namespace.ts';

const client = join(import.meta.dirname, 'dhcp-client.pl');

export interface DhcpAnswer {
  address: string;
  prefixLength?: string;
  router?: string;
  nameServer?: string;
  domain?: string;
  hostName?: string;
  leaseSeconds: string;
  mtu?: string;
}

/** The link of a guest in its own namespace. */
export const GUEST_LINK = 'eth0';

/** A namespace whose `eth0` has this MAC address and ends as a port of a bridge in another namespace. */
export async function guestNamespace(
  test: Cleanup,
  host: NetworkNamespace,
  bridge: string,
  mac: string,
): Promise<NetworkNamespace> {
  const guest = await networkNamespace(test);
  const port = `p${markedName()}`;
  await host.run(['ip', '-batch', '-'], {
    input: `link add name ${port} type veth peer name ${GUEST_LINK} address ${mac} netns ${guest.name}
link set dev ${port} master ${bridge} up\n`,
  });
  await guest.run(['ip', 'link', 'set', 'dev', GUEST_LINK, 'up']);
  return guest;
}

/** Connects two namespaces by a cable with these ends: `[link, address with prefix length]`. */
export async function cable(
  one: NetworkNamespace,
  other: NetworkNamespace,
  ends: readonly [readonly [string, string], readonly [string, string]],
): Promise<void> {
  const [[link, address], [otherLink, otherAddress]] = ends;
  await one.run(['ip', 'link', 'add', 'name', link, 'type', 'veth', 'peer', 'name', otherLink, 'netns', other.name]);
  for (const [namespace, name, cidr] of [
    [one, link, address],
    [other, otherLink, otherAddress],
  ] as const) {
    await namespace.run(['ip', 'address', 'add', cidr, 'dev', name]);
    await namespace.run(['ip', 'link', 'set', 'dev', name, 'up']);
  }
}

/** Asks by DHCP for an address, without taking it. */
export async function askDhcp(
  guest: NetworkNamespace,
  family: 4 | 6,
  mac: string,
  hostName?: string,
): Promise<DhcpAnswer> {
  const argv = ['perl', client, String(family), GUEST_LINK, mac, ...(hostName === undefined ? [] : [hostName])];
  const { stdout } = await guest.run(argv, { timeoutMs: 20_000 });
  return Object.fromEntries(
    stdout
      .trim()
      .split('\n')
      .map((line) => line.split(' ')),
  );
}

/** Asks by DHCP and configures the link with the answer. */
export async function takeAddress(guest: NetworkNamespace, mac: string, hostName?: string): Promise<DhcpAnswer> {
  const answer = await askDhcp(guest, 4, mac, hostName);
  await guest.run(['ip', 'address', 'replace', `${answer.address}/${answer.prefixLength}`, 'dev', GUEST_LINK]);
  if (answer.router) await guest.run(['ip', 'route', 'replace', 'default', 'via', answer.router]);
  return answer;
}

/** Evaluates an expression of JavaScript (it may await) in the namespace and answers with its value. */
export async function evaluate<T>(namespace: NetworkNamespace, expression: string): Promise<T> {
  const program = `console.log(JSON.stringify((await (${expression})) ?? null)); process.exit(0);`;
  const { stdout } = await namespace.run([process.execPath, '--input-type=module', '-e', program], {
    timeoutMs: 20_000,
  });
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as T;
}

/** Asks a name server; an error's code (`ENOTFOUND`) instead of addresses when there are none. */
export function lookUp(
  namespace: NetworkNamespace,
  server: string,
  name: string,
  type: 'A' | 'AAAA' | 'PTR' = 'A',
): Promise<string[] | string> {
  return evaluate(
    namespace,
    `(async () => {
      const { Resolver } = await import('node:dns/promises');
      const resolver = new Resolver({ timeout: 2000, tries: 3 });
      resolver.setServers([${JSON.stringify(server)}]);
      return resolver.resolve(${JSON.stringify(name)}, ${JSON.stringify(type)}).catch((error) => error.code);
    })()`,
  );
}

/** Connects by TCP; answers with what the other side says first, or the error's code, or `timeout`. */
export function connectTo(namespace: NetworkNamespace, address: string, port: number): Promise<string> {
  return evaluate(
    namespace,
    `(async () => {
      const { connect } = await import('node:net');
      const socket = connect({ host: ${JSON.stringify(address)}, port: ${port}, timeout: 3000 });
      return new Promise((resolve) => {
        socket.once('data', (data) => resolve(String(data)));
        socket.once('error', (error) => resolve(error.code));
        socket.once('timeout', () => resolve('timeout'));
      });
    })()`,
  );
}

/** A server in the namespace that tells everyone who connects the address they come from. */
export async function tellAddresses(test: Cleanup, namespace: NetworkNamespace, port: number): Promise<void> {
  const program = `
    const { createServer } = await import('node:net');
    createServer((socket) => {
      socket.on('error', () => {});
      socket.end(socket.remoteAddress.replace('::ffff:', ''));
    }).listen(${port}, '::', () => console.log('ready'));`;
  const server = serveIn(test, namespace, program);
  await once(server.stdout, 'data', { signal: AbortSignal.timeout(10_000) });
}
