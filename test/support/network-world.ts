// Machines for tests of host networks: a namespace that plays the host, with networks as a reconciler would bring them
// up, and one that plays the internet.
//
//   guests ── bridge ── [ host ] ── uplink ── [ internet: 198.51.100.1, a web server, a name server ]
import { join } from 'node:path';
import { type TestContext } from 'node:test';
import { terminateProcess } from '../../src/host/process.ts';
import { listDnsmasqs, readLeases } from '../../src/host/network/dnsmasq.ts';
import { type DhcpLease } from '../../src/host/network/dnsmasq-config.ts';
import { ensureFirewall } from '../../src/host/network/firewall.ts';
import { ensureForwarding, type SysctlChange } from '../../src/host/network/forwarding.ts';
import {
  defaultDhcpAddresses,
  ensureAddresses,
  ensureBridge,
  ensureNatDnsmasq,
  familiesOf,
  firewallNetworkOf,
  observeNatNetwork,
  type NatNetworkDefinition,
  type NatNetworkMembers,
  type NatNetworkObservation,
} from '../../src/host/network/nat-network.ts';
import { type NetworkScope } from '../../src/host/network/netns.ts';
import { atEnd } from './cleanup.ts';
import { cable, tellAddresses } from './guest-namespace.ts';
import { markedName } from './mark.ts';
import { networkNamespace, type NetworkNamespace } from './namespace.ts';
import { temporaryFolder } from './temporary.ts';
import { eventually } from './wait.ts';

export const web1 = '52:54:00:00:00:01';
export const db1 = '52:54:00:00:00:02';
export const stranger = '52:54:00:00:00:99';
export const noMembers: NatNetworkMembers = { reservations: [], records: [] };

/** A machine of its own: a namespace that the networks of one test live in. */
export class World {
  readonly instance = markedName();
  readonly host: NetworkNamespace;
  readonly runtimeFolder: string;
  readonly scope: NetworkScope;
  networks: NatNetworkDefinition[] = [];
  sysctls: SysctlChange[] = [];

  constructor(host: NetworkNamespace, runtimeFolder: string) {
    this.host = host;
    this.runtimeFolder = runtimeFolder;
    this.scope = { netns: host.name };
  }

  define(index: number, more: Partial<NatNetworkDefinition> = {}): NatNetworkDefinition {
    return {
      instance: this.instance,
      id: `net-${index}`,
      bridgeName: `br${index}`,
      ipv4: defaultDhcpAddresses(`10.88.${index}.0/24`),
      ipv6: null,
      domain: 'lodge.internal',
      ...more,
    };
  }

  get firewallNetworks(): ReturnType<typeof firewallNetworkOf>[] {
    return this.networks.map(firewallNetworkOf);
  }

  /** Brings a network up, as a reconciler would; answers with what was done. */
  async ensure(network: NatNetworkDefinition, members = noMembers): Promise<string[]> {
    const { scope, runtimeFolder } = this;
    this.networks = [...this.networks.filter(({ id }) => id !== network.id), network];
    const done = [...(await ensureBridge(network, scope)), ...(await ensureAddresses(network, scope))];
    const sysctls = await ensureForwarding(familiesOf(network), scope);
    this.sysctls.push(...sysctls);
    done.push(...sysctls.map(({ key }) => key));
    done.push(...(await ensureFirewall(this.instance, this.firewallNetworks, scope)));
    const change = await ensureNatDnsmasq(network, members, runtimeFolder, scope);
    return change === null ? done : [...done, `dnsmasq ${change}`];
  }

  observe(network: NatNetworkDefinition, members = noMembers): Promise<NatNetworkObservation> {
    return observeNatNetwork(network, members, this.firewallNetworks, this.runtimeFolder, this.scope);
  }

  async differences(network: NatNetworkDefinition, members = noMembers): Promise<string[]> {
    return (await this.observe(network, members)).differences.map(({ part, detail }) => `${part}: ${detail}`);
  }

  /** The leases, when there are that many: dnsmasq answers first and writes them down then. */
  leases(network: NatNetworkDefinition, count: number, family: 4 | 6 = 4): Promise<DhcpLease[]> {
    return eventually(
      async () => {
        const leases = await readLeases(join(this.runtimeFolder, network.id));
        const found = leases.filter((lease) => lease.family === family);
        return found.length === count ? found : null;
      },
      { describe: `there are ${count} leases` },
    );
  }
}

export async function makeWorld(t: TestContext): Promise<World> {
  const host = await networkNamespace(t);
  const world = new World(host, await temporaryFolder(t, 0o755));
  atEnd(t, async () => {
    for (const { process } of await listDnsmasqs(world.runtimeFolder))
      await terminateProcess(process, { termTimeoutMs: 2000 });
  });
  return world;
}

/** The host's way out: a namespace with a server that tells who connects. */
export async function makeInternet(t: TestContext, world: World): Promise<NetworkNamespace> {
  const internet = await networkNamespace(t);
  await cable(world.host, internet, [
    ['uplink', '198.51.100.2/24'],
    ['downlink', '198.51.100.1/24'],
  ]);
  await world.host.run(['ip', 'route', 'add', 'default', 'via', '198.51.100.1']);
  await tellAddresses(t, internet, 8080);
  return internet;
}
