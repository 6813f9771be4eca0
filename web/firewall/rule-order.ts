// The rules of a group in the order in which they are looked at, and what they match in the words of the command line. Pure.
import { type SecurityRule } from '../../src/api/security-group.ts';

/** Ingress first; the lowest priority first; of the same, those that deny. The order given decides nothing. */
export function inOrder(rules: readonly SecurityRule[]): SecurityRule[] {
  const rank = ({ direction, action }: SecurityRule): [number, number] => [
    direction === 'ingress' ? 0 : 1,
    action === 'deny' ? 0 : 1,
  ];
  return rules.toSorted((a, b) => {
    const [directionOfA, actionOfA] = rank(a);
    const [directionOfB, actionOfB] = rank(b);
    return directionOfA - directionOfB || a.priority - b.priority || actionOfA - actionOfB;
  });
}

/** Ports or ICMP types that a rule matches; null: all of its protocol. */
export function portsText({ ports, icmpTypes }: Pick<SecurityRule, 'ports' | 'icmpTypes'>): string | null {
  const all = [...ports, ...icmpTypes.map(String)];
  return all.length === 0 ? null : all.join(', ');
}
