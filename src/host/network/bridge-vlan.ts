// VLANs on a bridge of Linux: which of them each port has, and how its frames are tagged there. Source: bridge(8), 802.1Q.
import { CommandError, run } from '../command.ts';
import { inScope, ipCommand, type NetworkScope } from './netns.ts';

/** Which VLANs a port has: one, whose frames it gets without a tag; or several with their tags. */
export type PortVlan =
  | { readonly access: number }
  | {
      readonly trunk: readonly number[];
      /** Of the VLANs, the one whose frames have no tag on this port. */
      readonly native?: number | undefined;
    };

/** The kernel has bridges that don't tell VLANs apart (CONFIG_BRIDGE_VLAN_FILTERING). */
export class VlanUnsupportedError extends Error {
  override name = 'VlanUnsupportedError';
  constructor(options?: ErrorOptions) {
    super('the kernel of this host has no VLAN filtering on bridges (CONFIG_BRIDGE_VLAN_FILTERING)', options);
  }
}

/** The numbers of the VLANs. */
export function vlanIds(vlan: PortVlan): number[] {
  return 'access' in vlan
    ? [vlan.access]
    : [...new Set([...vlan.trunk, ...(vlan.native === undefined ? [] : [vlan.native])])];
}

/** Lines for `bridge -batch` that give a port its VLANs, besides those it has. */
export function vlanLines(port: string, vlan: PortVlan): string[] {
  const untagged = 'access' in vlan ? vlan.access : vlan.native;
  return vlanIds(vlan).map((id) => `vlan add dev ${port} vid ${id}${id === untagged ? ' pvid untagged' : ''}`);
}

/** Whether a bridge tells VLANs apart. */
export async function isVlanAware(bridge: string, scope: NetworkScope = {}): Promise<boolean> {
  const { stdout } = await run(ipCommand(scope, '-json', '-details', 'link', 'show', 'dev', bridge));
  const links = JSON.parse(stdout || '[]') as { linkinfo?: { info_data?: { vlan_filtering?: number } } }[];
  return links.some(({ linkinfo }) => linkinfo?.info_data?.vlan_filtering === 1);
}

/** Makes a bridge tell VLANs apart. Rejects with {@link VlanUnsupportedError}. */
export async function makeVlanAware(bridge: string, scope: NetworkScope = {}): Promise<void> {
  try {
    await run(ipCommand(scope, 'link', 'set', 'dev', bridge, 'type', 'bridge', 'vlan_filtering', '1'));
  } catch (error) {
    throw explained(error);
  }
  // A kernel that doesn't know the option may have passed over it.
  if (!(await isVlanAware(bridge, scope))) throw new VlanUnsupportedError();
}

/** Gives a port of a guest these VLANs and no others; it is in none until that is done. */
export async function setPortVlan(port: string, vlan: PortVlan, scope: NetworkScope = {}): Promise<void> {
  // The one that the bridge gives every new port, where it does.
  const default1 = ['bridge', 'vlan', 'delete', 'dev', port, 'vid', '1'] as const;
  await run(inScope(scope, [...default1]), { okExitCodes: [0, 1, 2, 255] });
  await addPortVlans(port, vlan, scope);
}

/** Lets frames of VLANs, with their tags, pass a port that leads outside. */
export async function addUplinkVlans(port: string, vlan: PortVlan, scope: NetworkScope = {}): Promise<void> {
  await addPortVlans(port, { trunk: vlanIds(vlan) }, scope);
}

async function addPortVlans(port: string, vlan: PortVlan, scope: NetworkScope): Promise<void> {
  try {
    await run(inScope(scope, ['bridge', '-batch', '-']), { input: `${vlanLines(port, vlan).join('\n')}\n` });
  } catch (error) {
    throw explained(error);
  }
}

function explained(error: unknown): unknown {
  const isMissing = error instanceof CommandError && /not supported/i.test(error.stderr);
  return isMissing ? new VlanUnsupportedError({ cause: error }) : error;
}
