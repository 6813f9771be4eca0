// The virtual firewall of a project: what counts for NICs where no rule decides, which rules count for a VM and in which
// order, and what would become of a connection and why.
import * as z from 'zod';
import { inProject } from './object.ts';
import { route, type RouteTable } from './route.ts';
import { firewallPolicy } from './firewall-policy.ts';
import { ruleAction, ruleDirection } from './security-group.ts';

export const firewallStatus = z
  .object({
    state: z.enum(['idle', 'enforcing', 'degraded', 'failed']).describe('idle: there is no NIC to be filtered'),
    reason: z.string(),
    method: z
      .enum(['bridge-conntrack', 'br-netfilter', 'none'])
      .describe(
        'How connections between guests on one bridge are followed: by the bridge’s own conntrack (nf_conntrack_bridge), through br_netfilter, or not at all',
      ),
    nicCount: z.int().describe('NICs of the node that are filtered'),
    problems: z.array(z.string()).describe('One sentence each'),
    unfiltered: z
      .array(z.object({ vm: z.string(), nic: z.int(), reason: z.string() }))
      .describe('NICs of the project that can not be filtered, or not all of what was asked'),
  })
  .meta({ id: 'FirewallStatus' });
export type FirewallStatus = z.output<typeof firewallStatus>;

export const projectFirewall = z
  .object({
    project: z.string(),
    revision: z.int().nonnegative().describe('0 while nobody has changed it'),
    spec: firewallPolicy,
    status: firewallStatus,
  })
  .meta({ id: 'ProjectFirewall' });
export type ProjectFirewall = z.output<typeof projectFirewall>;

/** Where a rule comes from. */
export const ruleOrigin = z
  .object({
    kind: z.enum(['built-in', 'security-group', 'network-policy', 'project-policy', 'default']),
    name: z.string().nullable().describe('Of the security group or the network'),
    via: z.enum(['nic', 'network', 'project']).nullable().describe('Who puts the NIC into the group'),
  })
  .meta({ id: 'FirewallRuleOrigin' });
export type RuleOrigin = z.output<typeof ruleOrigin>;

export const effectiveRule = z
  .object({
    id: z.string().describe('Group and name: web/https. In the log as well'),
    name: z.string(),
    origin: ruleOrigin,
    direction: ruleDirection,
    action: ruleAction,
    priority: z.int().nullable().describe('null: built in before, or a default after all others'),
    text: z.string().describe('What it matches, in words'),
    packets: z
      .int()
      .nullable()
      .describe(
        'From who connects, that it has decided on since it was loaded; answers are not counted. NICs of the node with exactly the same rules are counted together. null: not asked for, or the NIC has no rules in the kernel now',
      ),
    bytes: z.int().nullable().describe('Of these packets, from the IP header on'),
  })
  .meta({ id: 'EffectiveRule' });
export type EffectiveRule = z.output<typeof effectiveRule>;

export const effectiveNic = z
  .object({
    nic: z.int(),
    mac: z.string(),
    network: z.string(),
    groups: z.array(z.string()),
    hasAntiSpoofing: z.boolean(),
    addresses: z.array(z.string()).describe('Known of the NIC: what it may send from, and what rules find it by'),
    unfiltered: z.string().nullable().describe('Why it is not filtered'),
    rules: z.array(effectiveRule).describe('In the order in which they are looked at, ingress first'),
  })
  .meta({ id: 'EffectiveNic' });
export type EffectiveNic = z.output<typeof effectiveNic>;

/** One look at a connection from one side. */
export const explainedSide = z
  .object({
    vm: z.string().nullable().describe('null: not a VM of the project'),
    nic: z.int().nullable(),
    direction: ruleDirection,
    verdict: ruleAction,
    rule: effectiveRule.nullable().describe('What decides; null: nobody filters on this side'),
    reason: z.string().describe('In a sentence'),
  })
  .meta({ id: 'ExplainedSide' });
export type ExplainedSide = z.output<typeof explainedSide>;

export const explanation = z
  .object({
    verdict: z.enum(['allowed', 'denied']),
    reason: z.string().describe('In a sentence'),
    from: z.string().describe('Name and address'),
    to: z.string(),
    connection: z.string().describe('tcp/5432'),
    sides: z.array(explainedSide).describe('First that of who connects, then that of who is connected to'),
    notes: z.array(z.string()).describe('What else has a say, or is not known'),
  })
  .meta({ id: 'FirewallExplanation' });
export type Explanation = z.output<typeof explanation>;

export const firewallRoutes = {
  get: route({
    method: 'GET',
    path: '/v1/firewall',
    tag: 'security groups',
    summary: 'Read a project’s default policy, and how the node enforces it',
    permission: 'firewall.read',
    query: inProject,
    response: projectFirewall,
    errors: [],
  }),
  update: route({
    method: 'PUT',
    path: '/v1/firewall',
    tag: 'security groups',
    summary: 'Change a project’s default policy',
    permission: 'firewall.update',
    query: inProject,
    body: z
      .strictObject({
        revision: z.int().nonnegative().optional().describe('Revision this change is based on'),
        spec: firewallPolicy,
      })
      .meta({ id: 'FirewallUpdate' }),
    response: projectFirewall,
    errors: ['not_found', 'revision_conflict', 'host_failed'],
  }),
  rules: route({
    method: 'GET',
    path: '/v1/vms/{vm}/firewall',
    tag: 'security groups',
    summary: 'List the rules that count for a VM, in the order in which they are looked at',
    permission: 'firewall.read',
    query: z.strictObject({
      ...inProject.shape,
      counters: z
        .stringbool()
        .or(z.boolean())
        .default(false)
        .describe('Tell packets and bytes of each rule, as the kernel has them now'),
    }),
    response: z.object({ items: z.array(effectiveNic) }).meta({ id: 'EffectiveNicList' }),
    errors: ['not_found', 'host_failed'],
  }),
  explain: route({
    method: 'GET',
    path: '/v1/firewall/explanation',
    tag: 'security groups',
    summary: 'Say whether a connection is allowed, by which rule, and why',
    description: 'Follows the same rules that are loaded. No packet is sent.',
    permission: 'firewall.read',
    query: z.strictObject({
      ...inProject.shape,
      from: z.string().max(253).describe('VM, address, “host” or “internet”'),
      to: z.string().max(253).describe('VM, address, “host” or “internet”'),
      protocol: z
        .string()
        .regex(/^(tcp|udp|icmp|icmpv6|sctp|\d{1,3})$/, 'is tcp, udp, icmp, icmpv6, sctp, or the number of a protocol')
        .default('tcp'),
      port: z.coerce.number<number | string>().int().min(1).max(65_535).optional(),
      icmpType: z.coerce.number<number | string>().int().min(0).max(255).optional(),
    }),
    response: explanation,
    errors: ['not_found'],
  }),
} as const satisfies RouteTable;
