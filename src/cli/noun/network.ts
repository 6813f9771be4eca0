// lodge network: what VMs are connected to.
import type { Command } from 'commander';
import {
  networkMode,
  networkSpec,
  type Lease,
  type Network,
  type NetworkBoot,
  type NetworkFinding,
  type NetworkModeName,
} from '../../api/network.ts';
import { formatAge, parseDurationS } from '../../lib/duration.ts';
import { formatRate } from '../../lib/quantity.ts';
import {
  collected,
  documentFormats,
  noun,
  objectFormats,
  parsedBy,
  verb,
  wholeNumber,
  withDaemon,
} from '../command.ts';
import { ask, confirm } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import { eachOf } from '../delete-each.ts';
import { parseLabels } from '../labels.ts';
import { listVerb, showVerb, withSuggestion, type FetchPage } from '../list.ts';
import { printDocument, printOne, type Printable } from '../output/print.ts';
import { painted, renderDetails, renderTable, type Column } from '../output/table.ts';
import { exitCodes } from '../exit-code.ts';
import { AlreadyPrinted } from '../output/print-error.ts';
import { changeObject } from '../set.ts';
import { ageColumn, colorState, idColumn, labelsColumn, labelsText, momentOf } from '../view.ts';

export const networkPrintable: Printable<Network> = {
  kind: 'Network',
  name: (network) => network.name,
  columns: [
    { header: 'NAME', value: (network) => network.name, minWidth: 12 },
    {
      header: 'STATE',
      value: (network) => network.status.state,
      color: (text, network, style) => colorState(text, network.status.state, style),
    },
    { header: 'MODE', value: (network) => network.spec.mode },
    { header: 'PREFIX', value: (network) => network.status.ipv4Cidr ?? network.spec.ipv4Cidr ?? '' },
    { header: 'GATEWAY', value: (network) => network.status.gateway ?? '' },
    { header: 'BRIDGE', value: (network) => network.status.bridge ?? '' },
    { header: 'VMS', value: (network) => String(network.status.usedBy.length), side: 'right' },
    { header: 'LEASES', value: (network) => String(network.status.leaseCount), side: 'right' },
    ageColumn(),
    { header: 'DOMAIN', value: (network) => network.spec.dnsDomain, isWide: true },
    { header: 'MTU', value: (network) => String(network.spec.mtu), side: 'right', isWide: true },
    labelsColumn(),
    idColumn(),
  ],
};

export const fetchNetworks: FetchPage<Network> = (client, query) => client.network.list({ query });

const leaseColumns: readonly Column<Lease>[] = [
  { header: 'ADDRESS', value: (lease) => lease.address },
  { header: 'MAC', value: (lease) => lease.mac },
  { header: 'VM', value: (lease) => lease.vm ?? '' },
  { header: 'HOSTNAME', value: (lease) => lease.hostname ?? '', minWidth: 8 },
  {
    header: 'EXPIRES IN',
    value: (lease) => (lease.expiresAt === null ? 'never' : formatAge(Date.parse(lease.expiresAt) - Date.now())),
    side: 'right',
  },
];

const modeText: Record<NetworkModeName, string> = {
  nat: 'bridge, DHCP, DNS, address translation',
  routed: 'bridge, DHCP, DNS, guests are reached at their own addresses',
  isolated: 'guests among themselves',
  bridged: 'guests are neighbours of what is beyond the uplink',
  vlan: 'guests are in VLANs of the uplink',
  ovs: 'guests are ports of a bridge of Open vSwitch',
  macvtap: 'guests share the wire of the uplink, without the host',
  user: 'inside QEMU, guests are alone',
};

function vlanText(vlan: Network['spec']['vlan']): string | null {
  if (!vlan) return null;
  if (vlan.access !== undefined) return `${vlan.access} (access)`;
  const native = vlan.native === undefined ? '' : `, ${vlan.native} without a tag`;
  return `${vlan.trunk?.join(', ')} (trunk${native})`;
}

function parseVlans(text: string): number[] {
  return text.split(',').map((word) => wholeNumber(1, 4094)(word));
}

function uplinkText(uplink: Network['status']['uplink']): string | null {
  if (!uplink) return null;
  const { interface: name, change, confirmBy } = uplink;
  if (change === 'none') return `${name} (as it was)`;
  if (change === 'reverted') return `${name} (put back: nobody confirmed in time)`;
  if (confirmBy === null) return `${name} (port of a bridge that Lodge made)`;
  return `${name} (port of a bridge that Lodge made, put back in ${formatAge(Date.parse(confirmBy) - Date.now())} unless confirmed)`;
}

/** Its ceilings, with what this kernel lacks for them. */
function limitsText({ spec, status }: Network): string | null {
  const { inboundBytesPerSecond: inbound, outboundBytesPerSecond: outbound } = spec.limits ?? {};
  const parts = [
    inbound === undefined ? null : `in ${formatRate(inbound)}`,
    outbound === undefined ? null : `out ${formatRate(outbound)}`,
  ].filter((part) => part !== null);
  if (parts.length === 0) return null;
  const { state = 'active', problems = [] } = status.limits ?? {};
  return `${parts.join(', ')}, for all its guests${state === 'active' ? '' : ` (${state}: ${problems.join(' ')})`}`;
}

/** What a router beside this host is told, as Linux takes it. */
function routeCommand({ destination, via }: Network['status']['routes'][number]): string {
  return `ip route add ${destination} via ${via}`;
}

/** The mode that was typed; a wrong one is refused with those that there are. */
function parseMode(text: string): NetworkModeName {
  const mode = networkMode.options.find((candidate) => candidate === text);
  if (mode) return mode;
  throw new Error(`it must be one of ${networkMode.options.join(', ')}.`);
}

function parseMacvtapMode(text: string): Network['spec']['macvtapMode'] {
  const modes = networkSpec.shape.macvtapMode.unwrap().options;
  const mode = modes.find((candidate) => candidate === text);
  if (mode) return mode;
  throw new Error(`it must be one of ${modes.join(', ')}.`);
}

function findingLines(findings: readonly (NetworkFinding & { network: string })[], { terminal }: Session): string[] {
  const { style } = terminal;
  const marks = { ok: style.green('ok'), warning: style.yellow('warning'), error: style.red('error') };
  return findings.flatMap(({ network, severity, message, remedies }) => [
    `${network}: ${marks[severity]}: ${message}`,
    ...remedies.map((remedy) => `    ${remedy}`),
  ]);
}

function networkDetails(network: Network, session: Session): string[] {
  const { status, spec } = network;
  const { style } = session.terminal;
  const { dhcpRange } = status;
  return renderDetails(
    [
      ['Name', network.name],
      ['Project', network.project],
      ['State', painted(status.state, (text) => colorState(text, status.state, style))],
      ['Reason', status.reason],
      ['Problems', status.problems.join('\n')],
      ['Limits', limitsText(network)],
      ['Description', spec.description],
      ['Mode', `${spec.mode} (${modeText[spec.mode]})`],
      ['Prefix', [status.ipv4Cidr, status.ipv6Cidr].filter(Boolean).join(', ')],
      ['Gateway', [status.gateway, status.ipv6Gateway].filter(Boolean).join(', ')],
      ['Routes', status.routes.map(routeCommand).join('\n')],
      [
        'DHCP',
        dhcpRange === null
          ? 'off'
          : `${dhcpRange.first} to ${dhcpRange.last}, leases of ${formatAge(spec.dhcp.leaseTimeS * 1000)}`,
      ],
      ['Network boot', spec.boot === undefined ? null : bootText(spec.boot)],
      ['DNS domain', spec.dnsDomain],
      ['DNS servers', spec.dnsServers?.join(', ')],
      ['Bridge', status.bridge],
      ['Uplink', uplinkText(status.uplink)],
      ['VLAN', vlanText(spec.vlan)],
      ['MTU', String(spec.mtu)],
      ['Used by', status.usedBy.join(', ') || 'nothing'],
      ['Leases', String(status.leaseCount)],
      ['Labels', labelsText(network.labels)],
      ['Created', momentOf(network.createdAt)],
      ['Id', network.id],
    ],
    session.terminal,
  );
}

export async function getNetwork(session: Session, name: string): Promise<Network> {
  return withSuggestion(session, name, fetchNetworks, () =>
    session.client.network.get({ params: { network: name }, query: { project: session.project } }),
  );
}

/** The network, confirmed where it waits for that and somebody says that the host can still be reached. */
async function confirmUplink(session: Session, made: Network, isSure: boolean): Promise<Network> {
  const { uplink, bridge } = made.status;
  if (!uplink?.confirmBy) return made;
  const { terminal } = session;
  const secondsLeft = Math.max(0, Math.round((Date.parse(uplink.confirmBy) - Date.now()) / 1000));
  terminal.note(`${uplink.interface} is a port of ${bridge} now, which has its addresses and routes.`);
  if (!isSure && !terminal.canAsk) {
    terminal.note(`In ${secondsLeft} s it is put back, unless: lodge network confirm ${made.name}`);
    return made;
  }
  const at = { params: { network: made.name }, query: { project: session.project } };
  const answer = isSure
    ? 'y'
    : await ask(`Can you still reach this host? In ${secondsLeft} s it is put back. Keep it? [y/N] `);
  if (/^y(es)?$/i.test(answer.trim())) return session.client.network.confirm(at);
  await session.client.network.delete(at);
  terminal.note(`${uplink.interface} is as it was before, and there is no network ${made.name}.`);
  throw new AlreadyPrinted(exitCodes.failed.code);
}

interface CreateOptions {
  mode: NetworkModeName;
  subnet?: string;
  subnet6?: string;
  dnsServer?: string[];
  host: boolean;
  uplink?: string;
  vlan?: number;
  trunk?: number[];
  nativeVlan?: number;
  macvtapMode?: Network['spec']['macvtapMode'];
  confirm?: boolean;
  confirmTimeout?: number;
  dhcp: boolean;
  dhcpFirst?: string;
  dhcpLast?: string;
  leaseTime?: number;
  domain?: string;
  bridge?: string;
  mtu?: number;
  bootFile?: string;
  uefiBootFile?: string;
  ipxeFile?: string;
  tftp?: string;
  tftpServer?: string;
  description?: string;
  label?: string[];
}

/** What guests boot over the network; undefined: nothing of it was given. */
function bootOf(options: CreateOptions): NetworkBoot | undefined {
  const { bootFile: file, uefiBootFile: uefiFile, ipxeFile, tftp: tftpFolder, tftpServer: server } = options;
  const boot = { file, uefiFile, ipxeFile, tftpFolder, server };
  return Object.values(boot).every((value) => value === undefined) ? undefined : boot;
}

function bootText({ file, uefiFile, ipxeFile, tftpFolder, server }: NetworkBoot): string {
  const files = [
    file === undefined ? null : `${file} by BIOS`,
    uefiFile === undefined ? null : `${uefiFile} by UEFI`,
    ipxeFile === undefined ? null : `${ipxeFile} by iPXE`,
    tftpFolder === undefined ? null : `TFTP from ${tftpFolder}`,
    server === undefined ? null : `TFTP from ${server}`,
  ];
  return files.filter((one) => one !== null).join(', ');
}

/** `lodge network` and its verbs. */
export function networkNoun(): Command {
  const network = noun('network', 'Networks that VMs are connected to');

  listVerb(network, {
    kind: 'network',
    noun: 'network',
    plural: 'networks',
    printable: networkPrintable,
    fetch: fetchNetworks,
    projectOf: (one) => one.project,
    empty: 'Make one: lodge network create web',
    examples: [['lodge network list', 'all networks with their prefixes']],
  });
  showVerb(network, {
    noun: 'network',
    printable: networkPrintable,
    get: getNetwork,
    details: networkDetails,
    examples: [['lodge network show default', 'its prefix, bridge, DHCP range and VMs']],
  });

  verb(network, 'create <name>', 'Create a network', {
    formats: objectFormats,
    description: 'Create a network. Without a subnet, a free one is taken and kept.',
    examples: [
      ['lodge network create web', 'a NAT network with DHCP and DNS'],
      ['lodge network create lab --subnet 10.99.0.0/24 --domain lab.internal', 'with a prefix and a domain'],
      ['lodge network create web --subnet6 auto', 'with IPv6 as well, of a private prefix'],
      ['lodge network create office --mode routed --subnet 10.20.0.0/24', 'guests are reached at their own addresses'],
      ['lodge network create lan --mode bridged --uplink eth0', 'guests are in the network that eth0 is in'],
      ['lodge network create fast --mode macvtap --uplink eth1', 'the same without a bridge; the host stays apart'],
      ['lodge network create office --mode vlan --uplink eth1 --vlan 100', 'guests are in VLAN 100 of eth1'],
      ['lodge network create db --mode isolated', 'guests see each other, and nothing else'],
      [
        'lodge network create boot --tftp /srv/tftp --boot-file pxelinux.0 --uefi-boot-file bootnetx64.efi',
        'guests may boot over the network',
      ],
      ['lodge network create alone --mode user', 'inside QEMU: needs no privileges, guests see only the outside'],
    ],
  })
    .option('--mode <mode>', `one of ${networkMode.options.join(', ')}`, parsedBy(parseMode), 'nat')
    .option('--subnet <prefix>', 'IPv4 prefix; its first address is the host’s')
    .option('--subnet6 <prefix>', 'IPv6 prefix of length 64, or auto for a private one')
    .option('--no-host', 'isolated: the host is not on it, and there is no DHCP or DNS')
    .option('--no-dhcp', 'without DHCP')
    .option('--dhcp-first <address>', 'first address that DHCP gives')
    .option('--dhcp-last <address>', 'last address that DHCP gives')
    .option('--lease-time <duration>', 'how long a lease holds, such as 12h', parsedBy(parseDurationS))
    .option('--domain <domain>', 'guests find each other as name.domain')
    .option('--dns-server <address>', 'asked for names outside the domain; may be given several times', collected)
    .option('--bridge <name>', 'name of the bridge')
    .option(
      '--uplink <interface>',
      'bridged, vlan, macvtap, ovs: interface of the host that leads outside, or a bridge',
    )
    .option('--vlan <number>', 'vlan, ovs: the VLAN that NICs are in, without a tag', wholeNumber(1, 4094))
    .option('--trunk <numbers>', 'vlan, ovs: the VLANs that NICs get with their tags: 10,20', parsedBy(parseVlans))
    .option('--native-vlan <number>', 'with --trunk: the VLAN whose frames have no tag', wholeNumber(1, 4094))
    .option(
      '--macvtap-mode <mode>',
      'macvtap: bridge, private or vepa: whether guests reach each other',
      parsedBy(parseMacvtapMode),
    )
    .option('--confirm', 'bridged: keep a change of the uplink if the daemon still answers afterwards')
    .option(
      '--confirm-timeout <duration>',
      'bridged: when the uplink is put back without confirmation, such as 30s',
      parsedBy(parseDurationS),
    )
    .option('--mtu <bytes>', 'largest packet', wholeNumber(576, 65_535))
    .option(
      '--boot-file <file>',
      'what BIOS guests boot over the network: a file on the TFTP server, or an http address',
    )
    .option('--uefi-boot-file <file>', 'the same for UEFI guests: an EFI program')
    .option('--ipxe-file <file>', 'a script that iPXE loads in place of those')
    .option('--tftp <folder>', 'folder on the node that the network serves by TFTP')
    .option('--tftp-server <address>', 'another TFTP server')
    .option('--description <text>', 'what it is for')
    .option('--label <key=value>', 'label; may be given several times', collected)
    .action(
      withDaemon<[name: string], CreateOptions>(async (session, options, name) => {
        const created = await session.client.network.create({
          body: {
            name,
            project: session.project,
            labels: parseLabels(options.label),
            spec: {
              mode: options.mode,
              ipv4Cidr: options.subnet,
              ipv6Cidr: options.subnet6,
              hasHost: options.host,
              dhcp: {
                isEnabled: options.dhcp,
                firstAddress: options.dhcpFirst,
                lastAddress: options.dhcpLast,
                leaseTimeS: options.leaseTime,
              },
              dnsDomain: options.domain,
              dnsServers: options.dnsServer,
              bridge: options.bridge,
              uplink: options.uplink,
              ...(options.vlan === undefined && options.trunk === undefined && options.nativeVlan === undefined
                ? {}
                : { vlan: { access: options.vlan, trunk: options.trunk, native: options.nativeVlan } }),
              macvtapMode: options.macvtapMode,
              confirmTimeoutS: options.confirmTimeout,
              mtu: options.mtu,
              boot: bootOf(options),
              description: options.description,
            },
          },
        });
        const made = await confirmUplink(session, created, options.confirm === true);
        await printOne(session, networkPrintable, made, () => [
          `Network ${name} is ${made.status.state}${made.status.ipv4Cidr === null ? '' : `: ${made.status.ipv4Cidr}, gateway ${made.status.gateway ?? 'none'}`}.`,
          ...(made.status.routes.length === 0
            ? []
            : [
                'Tell the router of your network the way to it:',
                ...made.status.routes.map((way) => `  ${routeCommand(way)}`),
              ]),
        ]);
      }),
    );

  verb(network, 'set <network> <change...>', 'Change fields of a network', {
    formats: objectFormats,
    description:
      'Change fields of a network: key=value sets, key- removes. Mode, prefix and bridge can not be changed while VMs use it.',
    examples: [
      ['lodge network set web mtu=1400', 'another MTU'],
      ['lodge network set web labels.team=shop description=', 'a label, and no description'],
    ],
  }).action(
    withDaemon<[name: string, changes: string[]], object>(async (session, _options, name, changes) => {
      const after = await changeObject(session, 'network', await getNetwork(session, name), changes, (body) =>
        session.client.network.update({ params: { network: name }, query: { project: session.project }, body }),
      );
      if (after) await printOne(session, networkPrintable, after, () => [`Network ${name} is changed.`]);
    }),
  );

  verb(network, 'confirm <network>', 'Keep the change of the uplink of a bridged network', {
    formats: objectFormats,
    description:
      'Say that this host can still be reached after an interface of it has become a port of a bridge. Without it, the change is put back.',
    examples: [['lodge network confirm lan', 'within the time that its creation told']],
  }).action(
    withDaemon<[name: string], object>(async (session, _options, name) => {
      const after = await withSuggestion(session, name, fetchNetworks, () =>
        session.client.network.confirm({ params: { network: name }, query: { project: session.project } }),
      );
      await printOne(session, networkPrintable, after, () => [`Network ${name} is ${after.status.state}.`]);
    }),
  );

  verb(network, 'doctor [network]', 'Find out what keeps guests from reaching what they should', {
    formats: documentFormats,
    description:
      'Find out what keeps guests from reaching what they should: packets such as they send and get are followed through all rules of the host, those of Docker, firewalld, libvirt and others too. Nothing is changed. Ends with 1 where something is wrong.',
    examples: [
      ['lodge network doctor', 'all networks'],
      ['lodge network doctor default', 'one of them'],
    ],
  }).action(
    withDaemon<[name: string | undefined], object>(async (session, _options, name) => {
      const query = { project: session.project };
      const names =
        name === undefined ? (await session.client.network.list({ query })).items.map((one) => one.name) : [name];
      const findings: (NetworkFinding & { network: string })[] = [];
      for (const one of names) {
        const { items } = await withSuggestion(session, one, fetchNetworks, () =>
          session.client.network.diagnose({ params: { network: one }, query }),
        );
        findings.push(...items.map((finding) => ({ network: one, ...finding })));
      }
      await printDocument(session, findings, () => findingLines(findings, session));
      return findings.every(({ severity }) => severity === 'ok') ? 0 : exitCodes.failed.code;
    }),
  );

  verb(network, 'leases <network>', 'List the DHCP leases of a network', {
    formats: documentFormats,
    examples: [['lodge network leases default', 'who has which address, and until when']],
  }).action(
    withDaemon<[name: string], object>(async (session, _options, name) => {
      const { items } = await withSuggestion(session, name, fetchNetworks, () =>
        session.client.network.leases({ params: { network: name }, query: { project: session.project } }),
      );
      const { terminal } = session;
      if (items.length === 0 && session.format === 'table') {
        terminal.note(`No leases on network ${name}.`);
        return;
      }
      await printDocument(session, items, () =>
        renderTable(leaseColumns, items, { width: terminal.width, style: terminal.style }),
      );
    }),
  );

  verb(network, 'delete <network...>', 'Delete networks that no VM uses', {
    aliases: ['rm'],
    examples: [['lodge network delete lab --yes', 'without being asked']],
  })
    .option('-y, --yes', 'do not ask')
    .action(
      withDaemon<[names: string[]], { yes?: boolean }>(async (session, options, names) => {
        const what = names.length === 1 ? `network ${names[0]}` : `${names.length} networks`;
        await confirm(session, `Delete ${what}?`, options.yes === true);
        const deleted = await eachOf(session, names, (one) =>
          session.client.network.delete({ params: { network: one }, query: { project: session.project } }),
        );
        for (const { name } of deleted) session.terminal.line(`network ${name} is deleted.`);
        return Number(process.exitCode ?? 0);
      }),
    );
  return network;
}
