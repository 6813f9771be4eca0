// The filter of guests' NICs as it is decided, before it is loaded: ordered rules for each NIC, named sets of addresses and
// links that rules refer to, and what a NIC may send under which address. Who renders it for the kernel, who explains
// it and who tries it in shadow all read this one form.

/** A port, or a range with both ends. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** One that may be at the other side: a prefix (canonical, or one address), or a named set of {@link FilterSet}. */
export type FilterPeer =
  | { readonly kind: 'block'; readonly cidr: string }
  | { readonly kind: 'set'; readonly set: string };

/** A rule of one direction. It matches what begins a connection; answers belong to the connection that they answer. */
export interface FilterRule {
  /** Stands in explanations and in the log: `web/https`. At most 104 characters. */
  readonly id: string;
  readonly action: 'allow' | 'deny';
  /** The number of a protocol over IP; null: any. */
  readonly protocol: number | null;
  /** Ports that are connected to; none: any. */
  readonly ports: readonly PortRange[];
  /** Types of ICMP or ICMPv6; none: any. */
  readonly icmpTypes: readonly number[];
  /** Null: everybody. Empty: nobody. */
  readonly peers: readonly FilterPeer[] | null;
  /** Most connections at a time of one NIC; null: any number. */
  readonly connectionLimit: number | null;
  readonly isLogged: boolean;
}

/** Addresses and NICs that rules refer to by a name. */
export interface FilterSet {
  /** Unique, and always the same for the same thing: `group:ID`, `addresses:ID`, `selector:PROJECT:TEXT`, `dns:NAME`. */
  readonly key: string;
  /** Prefixes and addresses, IPv4 and IPv6, canonical. */
  readonly blocks: readonly string[];
  /** Links of this host's guests, known by the port that their frames come in at. */
  readonly links: readonly string[];
}

/** What is decided for one direction of a NIC. */
export interface FilterDirection {
  /** In the order in which they are looked at; the first that matches decides. */
  readonly rules: readonly FilterRule[];
  /** What becomes of what no rule matches. */
  readonly otherwise: 'allow' | 'deny';
}

/** Under which addresses a NIC may send. */
export interface SpoofGuard {
  readonly mac: string;
  /** The only IPv4 and IPv6 blocks that it may send from (an IPv6 link-local address besides); null: see `foreign`. */
  readonly ipv4Only: readonly string[] | null;
  readonly ipv6Only: readonly string[] | null;
  /** Prefixes of its network, which its addresses lie in; null: not known. */
  readonly ipv4Prefix: string | null;
  readonly ipv6Prefix: string | null;
  /** The network, whose known addresses belong to others: see {@link AddressOwners}. */
  readonly network: string;
}

/** Who owns which address of a network: those of its NICs, and those of the host and other gateways (mac null). */
export interface AddressOwners {
  /** Letters and digits: it becomes part of names of nftables. */
  readonly network: string;
  readonly owners: readonly { readonly address: string; readonly mac: string | null }[];
}

/** A NIC as the kernel is to filter it. */
export interface NicFilter {
  /** The link that is its port of the bridge. */
  readonly link: string;
  /** Known of it, for limits of connections where they can't be counted by the port. */
  readonly addresses: readonly string[];
  readonly ingress: FilterDirection;
  readonly egress: FilterDirection;
  /** Whether programs of this host reach it, whatever the rules say. */
  readonly isHostAllowed: boolean;
  /** Null: it may send under any address. */
  readonly guard: SpoofGuard | null;
}

/** All that the kernel is to filter. */
export interface FilterPlan {
  readonly nics: readonly NicFilter[];
  readonly sets: readonly FilterSet[];
  readonly owners: readonly AddressOwners[];
}

/** Whether anything is decided by rules: without them, a NIC is guarded against spoofing only. */
export function hasRules({ ingress, egress }: Pick<NicFilter, 'ingress' | 'egress'>): boolean {
  return [ingress, egress].some(({ rules, otherwise }) => rules.length > 0 || otherwise === 'deny');
}
