// Open vSwitch, through ovs-vsctl: bridges and their ports, with VLANs. What Lodge makes there bears its mark in
// external_ids. It is an optional package: that it is missing, or that its daemon doesn't run, is an error with the remedy.
// Source: ovs-vsctl(8) and ovs-vswitchd.conf.db(5), 3.1.
import { CommandError, run } from '../command.ts';
import { type PortVlan } from './bridge-vlan.ts';

export interface OvsBridge {
  readonly name: string;
  /** `netdev`: in user space; `system`: in the kernel. */
  readonly datapath: 'system' | 'netdev';
  readonly owner: string | null;
  readonly ports: readonly string[];
}

export interface OvsPort {
  readonly name: string;
  readonly owner: string;
}

/** Open vSwitch could not be asked, or did not do what was asked. */
export class OvsError extends Error {
  override name = 'OvsError';
  readonly reason: 'missing-program' | 'not-running' | 'other';
  /** What to do about it. */
  readonly advice: string;

  constructor(reason: OvsError['reason'], message: string, advice: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
    this.advice = advice;
  }
}

/** The bridge of this name; null: Open vSwitch has none. */
export async function findOvsBridge(name: string): Promise<OvsBridge | null> {
  return (await listOvsBridges()).find((bridge) => bridge.name === name) ?? null;
}

export async function listOvsBridges(): Promise<OvsBridge[]> {
  const columns = ['--columns=name,datapath_type,external_ids', 'list', 'bridge'];
  const bridges = parseTable(await vsctl(['--format=json', ...columns]));
  const listed: OvsBridge[] = [];
  for (const { name, datapath_type: datapath, external_ids: ids } of bridges) {
    const ports = (await vsctl(['list-ports', String(name)])).split('\n').filter(Boolean);
    listed.push({
      name: String(name),
      datapath: datapath === 'netdev' ? 'netdev' : 'system',
      owner: ownerIn(ids),
      ports,
    });
  }
  return listed;
}

/**
 * Makes a bridge; in the kernel's datapath, or in user space where the kernel has none. Rejects with {@link OvsError}, and
 * leaves nothing then.
 */
export async function createOvsBridge(name: string, owner: string): Promise<'system' | 'netdev'> {
  await vsctl(['add-br', name, '--', 'set', 'bridge', name, `external_ids:lodge=${owner}`]);
  try {
    if ((await portNumber(name)) !== null) return 'system';
    await vsctl(['set', 'bridge', name, 'datapath_type=netdev']);
    if ((await portNumber(name)) !== null) return 'netdev';
    throw new OvsError('other', `Open vSwitch could not make the bridge ${name}`, 'see the log of ovs-vswitchd');
  } catch (error) {
    await removeOvsBridge(name);
    throw error;
  }
}

export async function removeOvsBridge(name: string): Promise<void> {
  await vsctl(['--if-exists', 'del-br', name]);
}

/** Makes a link a port of a bridge, with its VLANs (default: all of them, with tags). Rejects with {@link OvsError}. */
export async function addOvsPort(bridge: string, port: string, owner: string, vlan?: PortVlan): Promise<void> {
  const settings = [`external_ids:lodge=${owner}`, ...vlanSettings(vlan)];
  await vsctl(['--may-exist', 'add-port', bridge, port, '--', 'set', 'port', port, ...settings]);
  if ((await portNumber(port)) !== null) return;
  const why = (await vsctl(['get', 'interface', port, 'error'])).trim();
  await removeOvsPorts([port]);
  throw new OvsError('other', `${port} could not become a port of ${bridge}: ${why}`, 'see the log of ovs-vswitchd');
}

/** The columns of a port that say which VLANs it has. */
export function vlanSettings(vlan?: PortVlan): string[] {
  if (!vlan) return [];
  if ('access' in vlan) return ['vlan_mode=access', `tag=${vlan.access}`];
  const { trunk, native } = vlan;
  return native === undefined
    ? ['vlan_mode=trunk', `trunks=${trunk.join(',')}`]
    : ['vlan_mode=native-untagged', `tag=${native}`, `trunks=${trunk.join(',')}`];
}

/** Removes ports, those that there are. */
export async function removeOvsPorts(names: readonly string[]): Promise<void> {
  if (names.length === 0) return;
  await vsctl(names.flatMap((name, index) => [...(index > 0 ? ['--'] : []), '--if-exists', 'del-port', name]));
}

/** The ports that bear a mark of Lodge. */
export async function listOvsPorts(): Promise<OvsPort[]> {
  const ports = parseTable(await vsctl(['--format=json', '--columns=name,external_ids', 'list', 'port']));
  return ports.flatMap(({ name, external_ids: ids }) => {
    const owner = ownerIn(ids);
    return owner === null ? [] : [{ name: String(name), owner }];
  });
}

/** The number that a port has while it works; null: it doesn't. */
async function portNumber(name: string): Promise<number | null> {
  const number = Number((await vsctl(['get', 'interface', name, 'ofport'])).trim());
  return Number.isInteger(number) && number > 0 ? number : null;
}

/** Reads a table as `ovs-vsctl --format=json` writes it. */
export function parseTable(json: string): Record<string, unknown>[] {
  const { headings, data } = JSON.parse(json) as { headings: string[]; data: unknown[][] };
  return data.map((row) => Object.fromEntries(headings.map((heading, index) => [heading, row[index]])));
}

/** The mark of Lodge in a map of RFC 7047: `["map", [["lodge", "…"]]]`. */
function ownerIn(ids: unknown): string | null {
  const pairs = Array.isArray(ids) && ids[0] === 'map' ? (ids[1] as [string, string][]) : [];
  return pairs.find(([key]) => key === 'lodge')?.[1] ?? null;
}

async function vsctl(args: readonly string[]): Promise<string> {
  try {
    return (await run(['ovs-vsctl', '--timeout=15', ...args])).stdout;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    const options = { cause: error };
    if (error.reason === 'missing')
      throw new OvsError(
        'missing-program',
        'Open vSwitch is not installed on this host',
        'install it (Debian: apt install openvswitch-switch), or use a network in mode bridged',
        options,
      );
    const said = error.stderr.replaceAll(/^ovs-vsctl: /gm, '').trim();
    if (error.signal !== null || /database connection failed|timeout expired|terminating with signal/.test(said))
      throw new OvsError(
        'not-running',
        `Open vSwitch does not answer: ${said}`,
        'start it: systemctl start openvswitch-switch',
        options,
      );
    throw new OvsError('other', `Open vSwitch refused: ${said}`, 'see the log of ovs-vswitchd', options);
  }
}
