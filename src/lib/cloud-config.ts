// Composes what cloud-init reads from a NoCloud seed: user-data, meta-data and network configuration, from a few
// friendly fields and, where given, the user's own user-data (https://docs.cloudinit.io/en/latest/reference/). Pure.
import { parse, stringify } from 'yaml';

/** A file system that is no block device; cloud-init's own `mounts` takes block devices and servers only. */
export interface CloudConfigMount {
  /** Without blanks and quotes, all of them. */
  source: string;
  mountPoint: string;
  type: string;
  options: string;
}

export interface CloudConfigFields {
  /** Host name; with dots, a fully qualified one. */
  hostname?: string;
  /** Login to create, with sudo; default: the image's own (`debian`, `ubuntu`, …). */
  user?: string;
  /** OpenSSH public keys, one line each. */
  sshAuthorizedKeys?: readonly string[];
  /** Password of that login, as crypt(5) writes it ($6$…); never the password itself. */
  passwordHash?: string;
  /** Let ssh take passwords. Default: no, keys only. */
  isSshPasswordAllowed?: boolean;
  /** Packages to install at the first boot. */
  packages?: readonly string[];
  /** Commands to run at the end of the first boot: a line for sh, or a program with its arguments. */
  runCommands?: readonly (string | readonly string[])[];
  timezone?: string;
  locale?: string;
  /** Added to fstab(5), made as folders and mounted, once for this instance id. */
  mounts?: readonly CloudConfigMount[];
  /** The disk was that of another machine: machine id and ssh host keys are made anew, once for this instance id. */
  isCopy?: boolean;
}

/** Something given for cloud-init can't be taken. The message says what and why; `field` which. */
export class CloudConfigError extends Error {
  override name = 'CloudConfigError';
  readonly field: string;

  constructor(field: string, message: string) {
    super(message);
    this.field = field;
  }
}

const LIMITS = { userDataBytes: 1024 * 1024, hostnameLength: 253 } as const;

/** machine-id(5); D-Bus has one of its own where it is no link to that. Systems without one are left without. */
const newMachineId = [
  '[ -s /etc/machine-id ] || exit 0',
  'rm -f /etc/machine-id',
  '[ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id',
  'if command -v systemd-machine-id-setup; then systemd-machine-id-setup; else dbus-uuidgen --ensure=/etc/machine-id; fi',
  '[ ! -d /var/lib/dbus ] || [ -e /var/lib/dbus/machine-id ] || cp /etc/machine-id /var/lib/dbus/machine-id',
].join('; ');

type YamlMap = Record<string, unknown>;

/** YAML as cloud-init's parser (PyYAML, YAML 1.1) reads it: `yes` and `0755` that are meant as text are quoted. */
const writeYaml = (value: unknown): string => stringify(value, { version: '1.1', lineWidth: 0 });

/**
 * User-data of these fields and, merged into it or beside it, the user's own. In a merge the user's own text wins,
 * lists are joined (Lodge's entries first). What is not `#cloud-config` (a script, an include, MIME parts) becomes a
 * part of its own in a multi-part message.
 */
export function composeUserData(fields: CloudConfigFields, own?: string): string {
  const config = composeFields(fields);
  if (own === undefined || own.trim() === '') return writeCloudConfig(config);
  if (Buffer.byteLength(own) > LIMITS.userDataBytes) {
    throw new CloudConfigError(
      'userData',
      `User-data has ${Buffer.byteLength(own)} bytes; at most ${LIMITS.userDataBytes} are allowed.`,
    );
  }
  const kind = userDataKind(own);
  if (kind === 'text/cloud-config') return writeCloudConfig(merge(config, parseCloudConfig(own)));
  return composeMultipart([
    { type: 'text/cloud-config', name: 'lodge.yaml', body: writeCloudConfig(config) },
    { type: kind, name: 'user-data', body: own },
  ]);
}

const writeCloudConfig = (config: YamlMap): string =>
  `#cloud-config\n${Object.keys(config).length === 0 ? '{}\n' : writeYaml(config)}`;

function composeFields(fields: CloudConfigFields): YamlMap {
  const config: YamlMap = {};
  if (fields.hostname !== undefined) {
    checkHostname(fields.hostname);
    config['hostname'] = fields.hostname.split('.')[0];
    config['fqdn'] = fields.hostname;
    config['prefer_fqdn_over_hostname'] = false;
    config['manage_etc_hosts'] = true;
  }
  const keys = (fields.sshAuthorizedKeys ?? []).map((key, index) =>
    checkSshPublicKey(key, `sshAuthorizedKeys.${index}`),
  );
  if (fields.passwordHash !== undefined && !/^\$(?:6|5|y|2[aby])\$[!-9;-~]{8,}$/.test(fields.passwordHash)) {
    throw new CloudConfigError(
      'passwordHash',
      'The password must be hashed as crypt(5) writes it, beginning with $6$, $5$, $y$ or $2b$.',
    );
  }
  if (fields.user === undefined) {
    if (keys.length > 0) config['ssh_authorized_keys'] = keys;
    if (fields.passwordHash !== undefined) config['password'] = fields.passwordHash;
  } else {
    checkUserName(fields.user);
    config['users'] = [
      {
        name: fields.user,
        groups: fields.user === 'root' ? undefined : ['sudo', 'adm'],
        sudo: fields.user === 'root' ? undefined : 'ALL=(ALL) NOPASSWD:ALL',
        shell: '/bin/bash',
        lock_passwd: fields.passwordHash === undefined,
        hashed_passwd: fields.passwordHash,
        ssh_authorized_keys: keys.length > 0 ? keys : undefined,
      },
    ];
    if (fields.user === 'root') config['disable_root'] = false;
  }
  if (fields.passwordHash !== undefined) {
    // A password is usable at once; without this cloud-init asks for a new one at the first login.
    config['chpasswd'] = { expire: false };
  }
  if (fields.isSshPasswordAllowed !== undefined) config['ssh_pwauth'] = fields.isSshPasswordAllowed;
  if (fields.packages?.length) {
    for (const name of fields.packages) {
      if (!/^[A-Za-z0-9][A-Za-z0-9+._:=~-]*$/.test(name))
        throw new CloudConfigError('packages', `${JSON.stringify(name)} is not the name of a package.`);
    }
    config['package_update'] = true;
    config['packages'] = [...fields.packages];
  }
  if (fields.runCommands?.length)
    config['runcmd'] = fields.runCommands.map((command) => (typeof command === 'string' ? command : [...command]));
  const early: string[][] = [];
  if (fields.isCopy === true) {
    config['ssh_deletekeys'] = true;
    early.push(['cloud-init-per', 'instance', 'lodge-machine-id', 'sh', '-c', newMachineId]);
  }
  if (fields.mounts?.length)
    early.push(['cloud-init-per', 'instance', 'lodge-mounts', 'sh', '-c', mountScript(fields.mounts)]);
  if (early.length > 0) config['bootcmd'] = early;
  if (fields.timezone !== undefined) config['timezone'] = fields.timezone;
  if (fields.locale !== undefined) config['locale'] = fields.locale;
  return config;
}

/** A guest without a driver boots all the same, without the mount. */
function mountScript(mounts: readonly CloudConfigMount[]): string {
  const lines = mounts.map(({ source, mountPoint, type, options }) => {
    const words = [source, mountPoint, type, options];
    const bad = words.find((word) => !/^[A-Za-z0-9._+@,=/-]+$/.test(word));
    if (bad !== undefined) throw new CloudConfigError('mounts', `${JSON.stringify(bad)} can not stand in fstab.`);
    const entry = `${source} ${mountPoint} ${type} ${options},nofail 0 0`;
    // The guest's disk may be a copy of one that has the line.
    return `mkdir -p ${mountPoint}; grep -q '^${source} ${mountPoint} ' /etc/fstab || echo '${entry}' >> /etc/fstab; mount ${mountPoint}`;
  });
  return [...lines, 'true'].join('; ');
}

function checkHostname(hostname: string): void {
  const isName =
    hostname.length <= LIMITS.hostnameLength &&
    hostname.split('.').every((label) => /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i.test(label));
  if (!isName) {
    throw new CloudConfigError(
      'hostname',
      `${JSON.stringify(hostname.slice(0, 80))} is not a host name: letters, digits and hyphens, at most 63 between two dots.`,
    );
  }
}

function checkUserName(user: string): void {
  if (!/^[a-z_][a-z0-9_-]{0,31}$/.test(user)) {
    throw new CloudConfigError(
      'user',
      `${JSON.stringify(user.slice(0, 80))} is not a login: lower-case letters, digits, - and _, at most 32, a letter first.`,
    );
  }
}

const SSH_KEY_TYPES = [
  'ssh-ed25519',
  'ssh-rsa',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'sk-ssh-ed25519@openssh.com',
  'sk-ecdsa-sha2-nistp256@openssh.com',
];

/** Checks an OpenSSH public key, `type base64 [comment]`; answers it without surrounding space. RFC 4253, 6.6. */
export function checkSshPublicKey(text: string, field = 'sshAuthorizedKeys'): string {
  const key = text.trim();
  const refuse = (why: string): CloudConfigError =>
    new CloudConfigError(
      field,
      `${JSON.stringify(key.slice(0, 40))}${key.length > 40 ? '…' : ''} is not an ssh public key: ${why}.`,
    );
  if (/PRIVATE KEY/.test(key)) {
    throw new CloudConfigError(
      field,
      'This is a private key, which must not leave its machine. Give the file that ends in .pub.',
    );
  }
  if (/[^\t\x20-\x7e\u00a0-\uffff]/.test(key)) throw refuse('it must be one line');
  const [type = '', base64 = ''] = key.split(/[ \t]+/);
  if (!SSH_KEY_TYPES.includes(type)) throw refuse(`it begins with none of ${SSH_KEY_TYPES.join(', ')}`);
  const blob = Buffer.from(base64, 'base64');
  if (blob.toString('base64').replace(/=+$/, '') !== base64.replace(/=+$/, ''))
    throw refuse('its second word is not base64');
  const parts = readSshStrings(blob);
  if (!parts || parts[0]?.toString('latin1') !== type)
    throw refuse('its content does not agree with its type, or is cut off');
  if (type === 'ssh-rsa') {
    const bits = (parts[2]?.length ?? 0) * 8;
    if (bits < 2048) throw refuse(`it has ${Math.max(0, bits - 8)} bits, and sshd takes no RSA key under 2048`);
  }
  if (type === 'ssh-ed25519' && parts[1]?.length !== 32) throw refuse('its length is wrong');
  return key;
}

/** The length-prefixed strings of an ssh key; null when a length leads outside. */
function readSshStrings(blob: Buffer): Buffer[] | null {
  const parts: Buffer[] = [];
  for (let at = 0; at < blob.length;) {
    if (at + 4 > blob.length) return null;
    const length = blob.readUInt32BE(at);
    if (at + 4 + length > blob.length) return null;
    parts.push(blob.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return parts.length >= 2 ? parts : null;
}

/** First line → content type, as cloud-init tells them apart. */
const USER_DATA_KINDS: readonly [string, string][] = [
  ['#cloud-config', 'text/cloud-config'],
  ['#!', 'text/x-shellscript'],
  ['#include', 'text/x-include-url'],
  ['#cloud-boothook', 'text/cloud-boothook'],
  ['## template: jinja', 'text/jinja2'],
  ['#part-handler', 'text/part-handler'],
];

function userDataKind(own: string): string {
  if (/^(?:Content-Type: multipart|MIME-Version:)/i.test(own)) return 'multipart';
  const kind = USER_DATA_KINDS.find(([start]) => own.startsWith(start))?.[1];
  if (kind === undefined) {
    const starts = USER_DATA_KINDS.map(([start]) => start).join(', ');
    throw new CloudConfigError(
      'userData',
      `User-data begins with ${JSON.stringify(own.slice(0, 30))}; cloud-init knows it by its first line: ${starts}.`,
    );
  }
  return kind;
}

function parseCloudConfig(text: string): YamlMap {
  let value: unknown;
  try {
    value = parse(text, { version: '1.1', maxAliasCount: 100 });
  } catch (error) {
    throw new CloudConfigError('userData', `User-data is not valid YAML: ${(error as Error).message.split('\n')[0]}`);
  }
  if (value === null) return {};
  if (typeof value !== 'object' || Array.isArray(value)) {
    throw new CloudConfigError(
      'userData',
      'User-data must hold fields (name: value) under its first line #cloud-config.',
    );
  }
  return value as YamlMap;
}

const isMap = (value: unknown): value is YamlMap =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function merge(base: YamlMap, own: YamlMap): YamlMap {
  const result: YamlMap = { ...base };
  for (const [key, value] of Object.entries(own)) {
    const before = result[key];
    if (Array.isArray(before) && Array.isArray(value)) result[key] = [...before, ...value];
    else if (isMap(before) && isMap(value)) result[key] = merge(before, value);
    else result[key] = value;
  }
  return result;
}

/** RFC 2046. The boundary follows from the content, so that the same user-data give the same bytes. */
function composeMultipart(parts: readonly { type: string; name: string; body: string }[]): string {
  let boundary = 'lodge-part';
  while (parts.some((part) => part.body.includes(boundary))) boundary += '-x';
  const lines = [`Content-Type: multipart/mixed; boundary="${boundary}"`, 'MIME-Version: 1.0', ''];
  for (const part of parts) {
    lines.push(`--${boundary}`);
    if (part.type === 'multipart') lines.push(part.body);
    else {
      lines.push(
        `Content-Type: ${part.type}; charset="utf-8"`,
        'MIME-Version: 1.0',
        'Content-Transfer-Encoding: base64',
      );
      lines.push(`Content-Disposition: attachment; filename="${part.name}"`, '');
      lines.push(Buffer.from(part.body, 'utf8').toString('base64').replaceAll(/.{76}/g, '$&\n').trim());
    }
  }
  return [...lines, `--${boundary}--`, ''].join('\n');
}

/** Meta-data of a NoCloud seed. A new `instanceId` makes cloud-init run its first-boot steps again. */
export function composeMetaData(fields: { instanceId: string; hostname?: string }): string {
  if (fields.hostname !== undefined) checkHostname(fields.hostname);
  return writeYaml({ 'instance-id': fields.instanceId, 'local-hostname': fields.hostname?.split('.')[0] });
}

export interface CloudNetworkInterface {
  /** The interface is found by this address, since its name depends on the machine type. */
  macAddress: string;
  /** Ask for an address by DHCP. Default: yes unless `addresses` are given. */
  isDhcp4?: boolean;
  isDhcp6?: boolean;
  /** With prefix length: 192.0.2.10/24, 2001:db8::10/64. */
  addresses?: readonly string[];
  gateway4?: string;
  gateway6?: string;
  nameservers?: readonly string[];
  searchDomains?: readonly string[];
  mtu?: number;
  /** Ask for an address in the name of the MAC address, whatever else the system knows itself by. */
  isKnownByMac?: boolean;
  routes?: readonly { to: string; via: string }[];
}

/** Network configuration, version 2 (netplan's format). Addresses are taken as valid: whoever calls has checked them. */
export function composeNetworkConfig(interfaces: readonly CloudNetworkInterface[]): string {
  const ethernets: YamlMap = {};
  interfaces.forEach((one, index) => {
    if (!/^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(one.macAddress)) {
      throw new CloudConfigError(
        `interfaces.${index}.macAddress`,
        `${JSON.stringify(one.macAddress)} is not a MAC address like 52:54:00:12:34:56.`,
      );
    }
    const hasAddresses = (one.addresses?.length ?? 0) > 0;
    const routes = [
      ...(one.gateway4 === undefined ? [] : [{ to: '0.0.0.0/0', via: one.gateway4 }]),
      ...(one.gateway6 === undefined ? [] : [{ to: '::/0', via: one.gateway6 }]),
      ...(one.routes ?? []),
    ];
    const nameservers = { addresses: one.nameservers, search: one.searchDomains };
    ethernets[`lodge${index}`] = {
      match: { macaddress: one.macAddress.toLowerCase() },
      dhcp4: one.isDhcp4 ?? !hasAddresses,
      'dhcp-identifier': one.isKnownByMac === true ? 'mac' : undefined,
      dhcp6: one.isDhcp6,
      addresses: hasAddresses ? one.addresses : undefined,
      routes: routes.length > 0 ? routes : undefined,
      nameservers: one.nameservers?.length || one.searchDomains?.length ? nameservers : undefined,
      mtu: one.mtu,
    };
  });
  return writeYaml({ version: 2, ethernets });
}
