// The errors of src/host/network as Lodge's: which field of the network they are about, and what to do.
import { LodgeError } from '../../api/errors.ts';
import { VlanUnsupportedError } from '../../host/network/bridge-vlan.ts';
import { CommandError } from '../../host/command.ts';
import { DnsmasqDefinitionError } from '../../host/network/dnsmasq-config.ts';
import { DnsmasqError } from '../../host/network/dnsmasq.ts';
import { SysctlMissingError } from '../../host/network/forwarding.ts';
import { GuardedChangeError } from '../../host/network/guarded-change.ts';
import { LinkError } from '../../host/network/link.ts';
import { BridgeInUseError, BridgeNameTakenError } from '../../host/network/nat-network.ts';
import { NftablesError } from '../../host/network/nftables.ts';
import { OvsError } from '../../host/network/open-vswitch.ts';
import { NoFreeSubnetError, SubnetOverlapError } from '../../host/network/subnet.ts';
import { UplinkError } from '../../host/network/uplink-bridge.ts';

/** The host's own error as Lodge's. */
export function describeHostProblem(error: unknown, field: string): LodgeError {
  if (error instanceof LodgeError) return error;
  if (error instanceof BridgeNameTakenError) {
    const message = error.message.replace(/^bridgeName /, '');
    return new LodgeError('host_conflict', `spec.bridge: ${message}.`, {
      cause: error,
      fields: [{ field: 'spec.bridge', message, value: error.value }],
    });
  }
  if (error instanceof SubnetOverlapError) {
    const message = error.message.replace(/^ipv[46]\.cidr /, '');
    const prefix = error.field === 'ipv6.cidr' ? 'spec.ipv6Cidr' : 'spec.ipv4Cidr';
    return new LodgeError('host_conflict', `${prefix}: ${message}.`, {
      cause: error,
      fields: [{ field: prefix, message, value: error.value }],
    });
  }
  if (error instanceof UplinkError)
    return new LodgeError('host_conflict', `spec.uplink: ${error.message}.`, {
      cause: error,
      fields: [{ field: 'spec.uplink', message: error.message, value: error.uplink }],
      hint: `${error.advice[0]?.toUpperCase()}${error.advice.slice(1)}.`,
    });
  if (error instanceof VlanUnsupportedError)
    return new LodgeError('unsupported', `spec.mode: ${error.message}.`, {
      cause: error,
      hint: 'Use a network in mode ovs, or a kernel with VLAN filtering.',
    });
  if (error instanceof OvsError)
    return new LodgeError(error.reason === 'other' ? 'host_failed' : 'unsupported', `${error.message}.`, {
      cause: error,
      hint: `${error.advice[0]?.toUpperCase()}${error.advice.slice(1)}.`,
    });
  if (error instanceof NoFreeSubnetError) return new LodgeError('host_conflict', `${error.message}.`, { cause: error });
  if (error instanceof BridgeInUseError) return new LodgeError('in_use', `${error.message}.`, { cause: error });
  if (error instanceof DnsmasqError && error.reason === 'address-in-use')
    return new LodgeError('host_conflict', `${error.message}.`, {
      cause: error,
      hint: 'See which process listens there (ss -lunp), and stop it or let it listen on its own addresses only.',
    });
  if (error instanceof RangeError || error instanceof DnsmasqDefinitionError)
    return new LodgeError('invalid_request', `${field}: ${error.message}.`, { cause: error });
  if (
    error instanceof GuardedChangeError ||
    error instanceof LinkError ||
    error instanceof NftablesError ||
    error instanceof DnsmasqError ||
    error instanceof SysctlMissingError ||
    error instanceof CommandError
  ) {
    return new LodgeError('host_failed', `${error.message}.`, { cause: error });
  }
  return new LodgeError('host_failed', 'The network could not be set up on this host.', { cause: error });
}
