// Where this host reaches a guest: only addresses of the networks that the guest is on. A guest tells its addresses itself,
// and must not make the host connect anywhere else.
import { type Network } from '../../api/network.ts';
import { type Vm } from '../../api/vm.ts';
import { isInside, parseCidr, parseIp } from '../../lib/ip-address.ts';

type Nics = Pick<Vm['status']['nics'][number], 'network' | 'hostInterface' | 'addresses'>[];

/** The guest's addresses that lie in the prefixes of its networks on this host, without those of the host itself. */
export function hostAddresses(
  nics: Nics,
  networkOf: (reference: string) => Pick<Network['status'], 'ipv4Cidr' | 'gateway'> | null,
): string[] {
  return nics.flatMap(({ network, hostInterface, addresses }) => {
    const { ipv4Cidr = null, gateway = null } = networkOf(network) ?? {};
    const prefix = ipv4Cidr === null ? null : parseCidr(ipv4Cidr);
    if (hostInterface === null || !prefix) return [];
    return addresses.filter((address) => {
      const parsed = parseIp(address);
      return parsed !== null && address !== gateway && isInside(parsed, prefix);
    });
  });
}
