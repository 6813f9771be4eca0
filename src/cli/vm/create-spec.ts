// From the options of `lodge vm create` to the spec of the contract. Files are read here, sizes are checked here; what
// the contract and the node allow is theirs to say.
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { VmSpecInput } from '../../api/vm-spec.ts';
import { parseMib, QuantityError } from '../../lib/quantity.ts';
import { usageError } from '../usage-error.ts';
import { parseForward } from './publish.ts';
import { parsePins } from './pins.ts';

/** The options as commander gives them. */
export interface CreateSpecOptions {
  image?: string;
  cpus?: number;
  cpuModel?: string;
  cpuEnable?: string[];
  cpuDisable?: string[];
  dedicated?: boolean;
  pin?: string[];
  cpuCap?: number;
  cpuWeight?: number;
  memory?: number;
  disk?: string[];
  cdrom?: string[];
  iso?: string;
  network?: string[];
  share?: string[];
  mac?: string;
  ip?: string;
  ip6?: string;
  publish?: string[];
  securityGroup?: string[];
  os?: string;
  hardware?: string;
  diskBus?: string;
  nicModel?: string;
  video?: string;
  usb?: string;
  machine?: string;
  firmware?: string;
  secureBoot?: string;
  secureBootCertificate?: string[];
  tpm?: boolean;
  smbios?: string;
  kernelArgs?: string;
  accelerator?: string;
  display?: string;
  keyboardLayout?: string;
  clipboard?: boolean;
  agent?: string | boolean;
  sshKey?: string[];
  user?: string;
  password?: string;
  userData?: string;
  networkConfig?: string;
  hostname?: string;
  type?: string;
  profile?: string[];
  description?: string;
  autostart?: boolean;
  restart?: string;
  stopTimeout?: number;
}

type Disk = NonNullable<VmSpecInput['disks']>[number];
type SharedFolder = NonNullable<VmSpecInput['sharedFolders']>[number];
type Nic = NonNullable<VmSpecInput['nics']>[number];

/** The spec that the options describe. What wasn't given stays out, so that the contract's defaults hold. */
export async function specFromOptions(options: CreateSpecOptions): Promise<VmSpecInput> {
  const cloudInit = await cloudInitFrom(options);
  // After the disks: while the first one is empty the firmware goes on to it, and once a system is there, it does not.
  const media = [...(options.iso === undefined ? [] : [options.iso]), ...(options.cdrom ?? [])];
  const disks = [...disksFrom(options), ...media.map(cdrom)];
  const nics = nicsFrom(options);
  return withoutUndefined({
    description: options.description,
    image: options.image,
    cpu: withoutUndefined({
      count: options.cpus,
      model: options.cpuModel,
      enable: words(options.cpuEnable),
      disable: words(options.cpuDisable),
      policy: options.dedicated === true ? ('dedicated' as const) : undefined,
      pinning: options.pin && parsePins(options.pin),
      capPercent: options.cpuCap,
      weight: options.cpuWeight,
    }),
    memoryMib: options.memory,
    os: options.os as VmSpecInput['os'],
    hardware: options.hardware as VmSpecInput['hardware'],
    video: options.video as VmSpecInput['video'],
    usb: options.usb as VmSpecInput['usb'],
    machine: options.machine as VmSpecInput['machine'],
    accelerator: options.accelerator as VmSpecInput['accelerator'],
    firmware: withoutUndefined({
      type: options.firmware as NonNullable<VmSpecInput['firmware']>['type'],
      commandLineExtra: options.kernelArgs,
      secureBoot: await secureBootFrom(options),
    }),
    tpm: options.tpm === true ? {} : undefined,
    smbios: options.smbios === undefined ? undefined : keyValues(options.smbios, smbiosKeys, '--smbios'),
    disks: disks.length === 0 ? undefined : disks,
    nics,
    sharedFolders: options.share?.map(parseShare),
    display: options.display as VmSpecInput['display'],
    keyboardLayout: options.keyboardLayout as VmSpecInput['keyboardLayout'],
    hasClipboard: options.clipboard,
    hasAgentChannel: options.agent === false ? false : undefined,
    guestAgent: typeof options.agent === 'string' ? (options.agent as VmSpecInput['guestAgent']) : undefined,
    cloudInit,
    autostart: options.autostart,
    restartPolicy:
      options.restart === undefined ? undefined : { mode: options.restart as 'never' | 'on-failure' | 'always' },
    stopTimeoutS: options.stopTimeout,
    instanceType: options.type,
    profiles: words(options.profile),
  });
}

const smbiosKeys = ['manufacturer', 'product', 'serial', 'uuid', 'assetTag', 'sku', 'family'] as const;

/** Certificates mean own keys, unless it is said otherwise. */
async function secureBootFrom({
  secureBoot,
  secureBootCertificate: files = [],
}: CreateSpecOptions): Promise<NonNullable<VmSpecInput['firmware']>['secureBoot']> {
  if (secureBoot === undefined && files.length === 0) return undefined;
  const ownCertificates: string[] = [];
  for (const file of files) ownCertificates.push(await readText(file, '--secure-boot-certificate'));
  const keys = (secureBoot ?? 'own') as 'microsoft' | 'own';
  return withoutUndefined({ keys, ownCertificates: files.length === 0 ? undefined : ownCertificates });
}

/** A copy without the fields that are undefined. */
function withoutUndefined<Document extends object>(document: Document): Document {
  return Object.fromEntries(Object.entries(document).filter(([, value]) => value !== undefined)) as Document;
}

/** Words that were given one by one or with commas. */
function words(given: readonly string[] | undefined): string[] | undefined {
  return given
    ?.flatMap((one) => one.split(','))
    .map((one) => one.trim())
    .filter(Boolean);
}

const diskKeys = ['name', 'size', 'volume', 'image', 'bus', 'cache', 'readonly'] as const;

/**
 * A disk: "20GiB", or keys: "name=data,size=100GiB,bus=scsi", "volume=data". The first one that says only a size is
 * the root disk; the names of the others follow their places.
 */
export function parseDisk(text: string, index: number): Disk {
  const name = index === 0 ? 'root' : `disk${index}`;
  if (!text.includes('=')) return { name, sizeMib: diskSize(text) };
  const fields = keyValues(text, diskKeys, '--disk');
  return withoutUndefined({
    name: fields['name'] ?? (index === 0 && fields['volume'] === undefined ? 'root' : (fields['volume'] ?? name)),
    sizeMib: fields['size'] === undefined ? undefined : diskSize(fields['size']),
    volume: fields['volume'],
    image: fields['image'],
    bus: fields['bus'] as Disk['bus'],
    cache: fields['cache'] as Disk['cache'],
    isReadOnly: fields['readonly'] === undefined ? undefined : yesOrNo('--disk readonly', fields['readonly']),
  });
}

/** The disks; without --disk, a bus is for the one that the image makes. */
function disksFrom({ disk = [], diskBus, image }: CreateSpecOptions): Disk[] {
  if (diskBus === undefined) return disk.map(parseDisk);
  if (disk.length === 0 && image === undefined) {
    throw usageError('--disk-bus is for disks, and there is none', { hint: 'Add --disk or --image.' });
  }
  const disks: Disk[] = disk.length === 0 ? [{ name: 'root' }] : disk.map(parseDisk);
  return disks.map((one) => ({ ...one, bus: one.bus ?? (diskBus as NonNullable<Disk['bus']>) }));
}

function cdrom(image: string, index: number): Disk {
  return { name: index === 0 ? 'cdrom' : `cdrom${index + 1}`, image, device: 'cdrom', isReadOnly: true };
}

const nicKeys = ['network', 'model', 'mac', 'ip', 'ip6', 'connected'] as const;

/** A NIC: the name of a network, or keys: "network=lab,model=e1000,mac=52:54:00:12:34:56,ip=10.77.0.9". */
export function parseNic(text: string): Nic {
  if (!text.includes('=')) return { network: text };
  const fields = keyValues(text, nicKeys, '--network');
  return withoutUndefined({
    network: fields['network'],
    model: fields['model'] as Nic['model'],
    mac: fields['mac']?.toLowerCase(),
    ipv4Address: fields['ip'],
    ipv6Address: fields['ip6'],
    isConnected: fields['connected'] === undefined ? undefined : yesOrNo('--network connected', fields['connected']),
  });
}

const shareKeys = ['src', 'tag', 'access', 'driver', 'mount'] as const;

/** A shared folder: a path, or keys: "src=/srv/data,tag=data,ro". Without a tag, the path's last part is it. */
export function parseShare(text: string): SharedFolder {
  if (!text.includes('=')) return { name: tagOf(text), path: text };
  // As mount(8) says it.
  const spelt = text.replace(/(^|,)ro(?=,|$)/g, '$1access=read-only').replace(/(^|,)rw(?=,|$)/g, '$1access=read-write');
  const fields = keyValues(spelt, shareKeys, '--share');
  const path = fields['src'];
  if (path === undefined) throw usageError('--share needs the folder: src=/srv/data,tag=data,ro');
  return withoutUndefined({
    name: fields['tag'] ?? tagOf(path),
    path,
    access: fields['access'] as SharedFolder['access'],
    driver: fields['driver'] as SharedFolder['driver'],
    mountPoint: fields['mount'],
  });
}

function tagOf(path: string): string {
  return (path.replace(/\/+$/, '').split('/').at(-1) ?? '').toLowerCase().replaceAll(/[_. ]/g, '-');
}

function nicsFrom(options: CreateSpecOptions): Nic[] | undefined {
  const given = options.network ?? [];
  const { mac, ip, ip6, publish, securityGroup } = options;
  const isOfFirst = [mac, ip, ip6, publish, securityGroup].some((given) => given !== undefined);
  const { nicModel } = options;
  if (given.length === 1 && given[0] === 'none') {
    if (!isOfFirst) return [];
    throw usageError(
      '--mac, --ip, --ip6, --publish and --security-group are for a NIC, and there is none with --network none',
    );
  }
  if (given.length === 0 && !isOfFirst && nicModel === undefined) return undefined;
  const parsed: Nic[] = given.length === 0 ? [{ network: 'default' }] : given.map(parseNic);
  const nics = parsed.map((nic) => withoutUndefined({ ...nic, model: nic.model ?? (nicModel as Nic['model']) }));
  const [first, ...others] = nics;
  return [
    withoutUndefined({
      ...first,
      mac: mac?.toLowerCase() ?? first?.mac,
      ipv4Address: ip ?? first?.ipv4Address,
      ipv6Address: ip6 ?? first?.ipv6Address,
      forwards: publish?.map(parseForward),
      securityGroups: words(securityGroup),
    }),
    ...others,
  ];
}

/** "key=value,key=value" with known keys. */
function keyValues(text: string, keys: readonly string[], option: string): Record<string, string> {
  return Object.fromEntries(
    text.split(',').map((part) => {
      const at = part.indexOf('=');
      const key = at === -1 ? part : part.slice(0, at);
      if (at === -1 || !keys.includes(key)) {
        throw usageError(`${option}: ${JSON.stringify(part)} is not understood`, {
          hint: `Write key=value, several with commas; the keys are ${keys.join(', ')}.`,
        });
      }
      return [key, part.slice(at + 1)];
    }),
  );
}

function diskSize(text: string): number {
  try {
    return parseMib(text, 'GiB');
  } catch (failure) {
    if (failure instanceof QuantityError) throw usageError(`--disk: ${failure.message}`);
    throw failure;
  }
}

function yesOrNo(what: string, text: string): boolean {
  if (text === 'yes' || text === 'true') return true;
  if (text === 'no' || text === 'false') return false;
  throw usageError(`${what} is yes or no (given: ${JSON.stringify(text)})`);
}

async function cloudInitFrom(options: CreateSpecOptions): Promise<VmSpecInput['cloudInit']> {
  const keys = await Promise.all((options.sshKey ?? []).map(readSshKeys));
  const cloudInit = withoutUndefined({
    user: options.user,
    sshKeys: keys.length === 0 ? undefined : keys.flat(),
    password: options.password,
    userData: options.userData === undefined ? undefined : await readText(options.userData, '--user-data'),
    networkConfig:
      options.networkConfig === undefined ? undefined : await readText(options.networkConfig, '--network-config'),
    hostname: options.hostname,
  });
  return Object.keys(cloudInit).length === 0 ? undefined : cloudInit;
}

/** Public keys: the text of one, or a file with one or several. A private key is refused, before it goes anywhere. */
export async function readSshKeys(given: string): Promise<string[]> {
  if (/^(ssh-|ecdsa-|sk-)\S+ \S+/.test(given)) return [given.trim()];
  const path = given.startsWith('~/') ? join(homedir(), given.slice(2)) : given;
  const text = await readText(path, '--ssh-key');
  if (text.includes('PRIVATE KEY')) {
    throw usageError(`--ssh-key: ${given} is a private key`, {
      hint: `Give the public one: ${given}.pub`,
    });
  }
  const keys = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
  if (keys.length === 0) throw usageError(`--ssh-key: ${given} holds no key`);
  return keys;
}

async function readText(path: string, option: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
    throw usageError(
      `${option}: the file ${path} ${code === 'ENOENT' ? 'does not exist' : `can not be read (${code})`}`,
      {
        hint:
          option === '--ssh-key'
            ? 'Give the path of a public key, or the key itself. Make one with: ssh-keygen -t ed25519'
            : 'Check the path.',
        cause,
      },
    );
  }
}
