// Security groups: named sets of stateful rules for the NICs that are in them. A NIC is in the groups that it names
// (spec.nics[].securityGroups), and in those that its network and its project give to every NIC (firewall.ts).
//
// Which rule counts: all rules of all groups of a NIC in one direction, sorted by priority (lowest first); of the same
// priority, those that deny come before those that allow. The first that matches decides. Answers belong to the
// connection that they answer, and are decided by the rule that decided it.
import * as z from 'zod';
import { creation, inProject, listQuery, metadata, objectReference, page, update } from './object.ts';
import { route, type RouteTable } from './route.ts';

/** Most rules of one group, those of the groups that it includes not counted. */
export const maxGroupRules = 1000;
/** Most rules that can count for one NIC, of all its groups together. */
export const maxNicRules = 2000;
/** Most groups that a NIC can name. */
export const maxNicGroups = 16;

/** Host names as DNS has them, without a final dot. */
export const dnsName = z
  .string()
  .max(253)
  .regex(
    /^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/,
    'is a DNS name in lower case, such as deb.debian.org',
  );

/** A prefix or one address, IPv4 or IPv6. */
export const addressBlock = z
  .string()
  .max(64)
  .regex(/^[0-9a-fA-F.:]+(\/\d{1,3})?$/, 'is an address or a prefix: 10.20.0.0/16, 192.0.2.7, fd00::/8');

/** What a peer can be; it has exactly one of them. */
export const peerKinds = ['cidr', 'addressSet', 'securityGroup', 'selector', 'dnsName'] as const;

/** The other side of a connection; exactly one of the fields. */
export const rulePeer = z
  .strictObject({
    cidr: addressBlock.optional().describe('A prefix without host bits, or one address; IPv4 or IPv6'),
    addressSet: objectReference.optional().describe('Address set of the same project'),
    securityGroup: objectReference
      .optional()
      .describe('Every NIC in this group of the same project. Two groups may name each other, and a group itself'),
    selector: z
      .string()
      .min(1)
      .max(500)
      .optional()
      .describe('Every NIC of the VMs of the project with these labels: app=web,tier!=db,env in (prod,test)'),
    dnsName: dnsName
      .optional()
      .describe('The addresses of this name, which the node looks up again when they run out (30 s to 1 h)'),
  })
  .meta({ id: 'SecurityRulePeer' });
export type RulePeer = z.output<typeof rulePeer>;

/** Names of ICMP types (as nftables has them) and their numbers: RFC 792, RFC 1256 and their like. */
export const icmpTypes: Readonly<Record<string, number>> = {
  'echo-reply': 0,
  'destination-unreachable': 3,
  'source-quench': 4,
  redirect: 5,
  'echo-request': 8,
  'router-advertisement': 9,
  'router-solicitation': 10,
  'time-exceeded': 11,
  'parameter-problem': 12,
  'timestamp-request': 13,
  'timestamp-reply': 14,
};

/** Names of ICMPv6 types and their numbers: RFC 4443 and RFC 4861. */
export const icmpv6Types: Readonly<Record<string, number>> = {
  'destination-unreachable': 1,
  'packet-too-big': 2,
  'time-exceeded': 3,
  'parameter-problem': 4,
  'echo-request': 128,
  'echo-reply': 129,
  'mld-listener-query': 130,
  'mld-listener-report': 131,
  'mld-listener-done': 132,
  'nd-router-solicit': 133,
  'nd-router-advert': 134,
  'nd-neighbor-solicit': 135,
  'nd-neighbor-advert': 136,
  'nd-redirect': 137,
};

export const ruleProtocol = z
  .union([z.enum(['any', 'tcp', 'udp', 'icmp', 'icmpv6', 'sctp']), z.int().min(0).max(255)])
  .meta({ id: 'SecurityRuleProtocol' });
export type RuleProtocol = z.output<typeof ruleProtocol>;

export const ruleDirection = z.enum(['ingress', 'egress']).meta({ id: 'SecurityRuleDirection' });
export type RuleDirection = z.output<typeof ruleDirection>;

export const ruleAction = z.enum(['allow', 'deny']).meta({ id: 'SecurityRuleAction' });

export const securityRule = z
  .strictObject({
    name: z
      .string()
      .max(40)
      .regex(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/, 'takes a-z, 0-9 and "-", at most 40 characters')
      .describe('Unique in its group; it stands in explanations and in the log'),
    description: z.string().max(1000).default(''),
    isEnabled: z.boolean().default(true),
    direction: ruleDirection.default('ingress').describe('ingress: to the NIC; egress: from the NIC'),
    action: ruleAction.default('allow'),
    priority: z
      .int()
      .min(0)
      .max(65_535)
      .default(1000)
      .describe('The lowest comes first, and the first rule that matches decides. Of equals, deny comes before allow'),
    protocol: ruleProtocol.default('any').describe('A name, or the number of any protocol over IP'),
    ports: z
      .array(
        z
          .string()
          .regex(/^\d{1,5}(-\d{1,5})?$/, 'is a port or a range of ports: 443, 8000-8080')
          .describe('A port, or a range'),
      )
      .max(64)
      .default([])
      .describe('Ports that are connected to (tcp, udp, sctp). None: every port'),
    icmpTypes: z
      .array(z.union([z.string().max(40), z.int().min(0).max(255)]))
      .max(32)
      .default([])
      .describe('Types of the protocol icmp or icmpv6, by name or number: echo-request. None: every type'),
    peers: z.array(rulePeer).max(64).default([]).describe('Who the other side may be: any of these. None: everybody'),
    connectionLimit: z
      .int()
      .min(1)
      .max(1_000_000)
      .optional()
      .describe('Of a rule that allows: most connections at a time that it admits for a NIC; more are denied'),
    isLogged: z
      .boolean()
      .default(false)
      .describe(
        'Whether what it decides is written to the log of the node’s kernel (journalctl -k --grep lodge): new connections, at most 5 a second, with the group and the rule',
      ),
  })
  .meta({ id: 'SecurityRule' });
export type SecurityRule = z.output<typeof securityRule>;
export type SecurityRuleInput = z.input<typeof securityRule>;

export const securityGroupSpec = z
  .strictObject({
    description: z.string().max(1000).default(''),
    includes: z
      .array(objectReference)
      .max(16)
      .default([])
      .describe('Groups of the same project whose rules count as this group’s too. They may not go in a circle'),
    rules: z.array(securityRule).max(maxGroupRules).default([]),
  })
  .meta({ id: 'SecurityGroupSpec' });
export type SecurityGroupSpec = z.output<typeof securityGroupSpec>;
export type SecurityGroupSpecInput = z.input<typeof securityGroupSpec>;

export const securityGroupStatus = z
  .object({
    members: z
      .array(z.object({ vm: z.string(), nic: z.int().describe('Place in spec.nics'), mac: z.string() }))
      .describe('NICs in it, by their own word or by that of their network or project'),
    addresses: z.array(z.string()).describe('What rules that name the group match: the known addresses of its NICs'),
    usedBy: z.array(z.string()).describe('What names it: VMs, networks, groups and the project’s policy'),
  })
  .meta({ id: 'SecurityGroupStatus' });

export const securityGroup = z
  .object({ ...metadata, spec: securityGroupSpec, status: securityGroupStatus })
  .meta({ id: 'SecurityGroup' });
export type SecurityGroup = z.output<typeof securityGroup>;

const one = { tag: 'security groups', query: inProject } as const;

export const securityGroupRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/security-groups',
    tag: 'security groups',
    summary: 'List security groups',
    permission: 'firewall.read',
    query: listQuery,
    response: page('SecurityGroupPage', securityGroup),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/security-groups',
    tag: 'security groups',
    summary: 'Create a security group',
    permission: 'firewall.update',
    body: creation('SecurityGroupCreate', securityGroupSpec),
    status: 201,
    response: securityGroup,
    errors: ['name_taken', 'not_found', 'idempotency_conflict'],
    isIdempotentByKey: true,
  }),
  get: route({
    ...one,
    method: 'GET',
    path: '/v1/security-groups/{securityGroup}',
    summary: 'Read a security group',
    permission: 'firewall.read',
    response: securityGroup,
    errors: ['not_found'],
  }),
  update: route({
    ...one,
    method: 'PUT',
    path: '/v1/security-groups/{securityGroup}',
    summary: 'Change a security group',
    description:
      'Answers when the change counts on the node, for connections that are open too: what was allowed by a rule that is gone is cut.',
    permission: 'firewall.update',
    body: update('SecurityGroupUpdate', securityGroupSpec),
    response: securityGroup,
    errors: ['not_found', 'revision_conflict', 'host_failed'],
  }),
  delete: route({
    ...one,
    method: 'DELETE',
    path: '/v1/security-groups/{securityGroup}',
    summary: 'Delete a security group that nothing names',
    permission: 'firewall.update',
    response: securityGroup,
    errors: ['not_found', 'in_use'],
  }),
} as const satisfies RouteTable;
