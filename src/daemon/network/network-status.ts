// What is known of a network before anything was made of it.
import { type NetworkStatus } from '../../api/network.ts';

export function initialNetworkStatus(): NetworkStatus {
  return {
    state: 'pending',
    reason: 'It is being created.',
    problems: [],
    bridge: null,
    ipv4Cidr: null,
    ipv6Cidr: null,
    gateway: null,
    ipv6Gateway: null,
    routes: [],
    uplink: null,
    dhcpRange: null,
    limits: null,
    leaseCount: 0,
    usedBy: [],
  };
}
