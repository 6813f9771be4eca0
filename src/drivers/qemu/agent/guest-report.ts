// What a guest tells of itself, in the contract's words: every answer of its agent that has to do with what it is and
// has. Names and addresses are the guest's: they are cut to what such a name can be and cleaned of what would make a mess
// of a terminal.
import { isIP } from 'node:net';
import type { GuestGlance, GuestReport } from '../../../api/vm-guest-info.ts';
import { printable } from '../../../lib/printable.ts';
import type { CallOptions } from '../../driver.ts';
import type { AgentClient } from './client.ts';
import type { AgentDisk, AgentDiskAddress, AgentFileSystem, AgentInterface, AgentVcpu } from './commands.ts';
import { Questions } from './questions.ts';

/** Where a disk of the VM sits, in the terms in which a guest sees it. */
export interface DiskPlace {
  disk: string;
  /** Its PCI device, or its controller's. */
  pci: { bus: number; slot: number };
  isCdrom: boolean;
  /** For a disk at a controller with several: which, by SCSI target, SATA port, or IDE channel and unit. */
  at: { target: number } | { port: number } | { channel: number; unit: number } | null;
}

export type FindDisks = (options: CallOptions) => Promise<readonly DiskPlace[]>;

const maxNameLength = 255;
/** Of a path: PATH_MAX of Linux. */
const maxPathLength = 4096;

export async function readGuestReport(
  client: AgentClient,
  findDisks: FindDisks,
  options: CallOptions & { timeoutMs: number },
): Promise<GuestReport> {
  const questions = new Questions(client, options);
  const glance = await glanceAt(questions);
  const zone = await questions.ask('guest-get-timezone', 'timeZone');
  const askedAtMs = Date.now();
  const time = await questions.ask('guest-get-time', 'clock');
  const answeredAtMs = Date.now();
  const fileSystems = await questions.ask('guest-get-fsinfo', 'fileSystems');
  const disks = await questions.ask('guest-get-disks', 'disks');
  const vcpus = await questions.ask('guest-get-vcpus', 'vcpus');
  const users = await questions.ask('guest-get-users', 'users');
  // Without it, only the disks' counterparts are not known.
  const places = disks || fileSystems ? await findDisks(options).catch(() => []) : [];
  return {
    ...glance,
    timeZone: zone && { name: nameOrNull(zone.zone), offsetS: zone.offset },
    clock: time === null ? null : clock(time / 1e6, (askedAtMs + answeredAtMs) / 2),
    fileSystems: (fileSystems ?? []).map((entry) => ({
      mountPoint: path(entry.mountpoint),
      name: name(entry.name),
      type: name(entry.type),
      totalBytes: entry['total-bytes'] ?? null,
      usedBytes: entry['used-bytes'] ?? null,
      disks: disksOf(entry, places),
    })),
    disks: toDisks(disks ?? [], fileSystems ?? [], places),
    vcpus: vcpus && { online: vcpus.filter(isOnline).length, total: vcpus.length },
    users: (users ?? []).map((entry) => ({ name: name(entry.user), loginAt: toTimestamp(entry['login-time'] * 1000) })),
    missing: questions.missing,
  };
}

/** What it is called and which system it is, and its addresses. */
export async function glanceAt(questions: Questions): Promise<GuestGlance> {
  const agentVersion = name(await questions.version());
  const system = await questions.ask('guest-get-osinfo', 'os');
  const host = await questions.ask('guest-get-host-name', 'hostname');
  const interfaces = await questions.ask('guest-network-get-interfaces', 'interfaces');
  return {
    agentVersion,
    hostname: host ? name(host['host-name']) : null,
    os: system && {
      id: nameOrNull(system.id),
      name: nameOrNull(system['pretty-name'] ?? system.name),
      version: nameOrNull(system['version-id'] ?? system.version),
      kernel: nameOrNull(system['kernel-release']),
      machine: nameOrNull(system.machine),
    },
    interfaces: (interfaces ?? []).map(toInterface),
  };
}

const isOnline = ({ online }: AgentVcpu): boolean => online;

/** Names as a guest tells them, on one line and not longer than a name is. */
export function name(text: string): string {
  return printable(text).slice(0, maxNameLength);
}

function nameOrNull(text: string | undefined): string | null {
  return text === undefined ? null : name(text);
}

function path(text: string): string {
  return printable(text).slice(0, maxPathLength);
}

function clock(guestMs: number, hostMs: number): GuestReport['clock'] {
  const at = toTimestamp(guestMs);
  return at === null ? null : { at, behindMs: Math.round(hostMs - guestMs) };
}

function toInterface(entry: AgentInterface): GuestReport['interfaces'][number] {
  return {
    name: name(entry.name),
    mac: toMac(entry['hardware-address']),
    addresses: (entry['ip-addresses'] ?? [])
      .filter((address) => isIP(address['ip-address']) !== 0)
      .map((address) => ({
        address: address['ip-address'],
        prefix: address.prefix,
        family: address['ip-address-type'],
      })),
  };
}

/** Null for what is no address of a link; tunnels have others. */
export function toMac(text: string | undefined): string | null {
  const mac = text?.toLowerCase() ?? '';
  return /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac) ? mac : null;
}

/** Null for what no date can be: the number is the guest's. */
function toTimestamp(ms: number): string | null {
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? null : date.toISOString();
}

/** The VM's disk at an address; null: none is known there, or it can't be told which. */
function diskAt(address: AgentDiskAddress, places: readonly DiskPlace[], device = address.dev ?? ''): string | null {
  const isCdrom = /^\/dev\/sr\d/.test(device);
  const isThere = ({ at, ...place }: DiskPlace): boolean => {
    if (!isOnController(address, place)) return false;
    if (at === null) return true;
    // Agents up to QEMU 10 leave out the target, so that one alone at its controller is the one.
    if ('target' in at) return place.isCdrom === isCdrom;
    if ('port' in at) return at.port === address.unit;
    return at.channel === address.bus && at.unit === address.unit;
  };
  const there = places.filter(isThere);
  return there.length === 1 ? there[0]!.disk : null;
}

function isOnController({ 'pci-controller': seen }: AgentDiskAddress, { pci }: Pick<DiskPlace, 'pci'>): boolean {
  return pci.bus === seen.bus && pci.slot === seen.slot;
}

/** Where the guest has mounted what lies on a disk; null: what it tells may be of this disk or of another one. */
export function mountPointsOf(
  disk: string,
  fileSystems: readonly AgentFileSystem[],
  places: readonly DiskPlace[],
): string[] | null {
  const own = places.find((place) => place.disk === disk);
  if (!own) return null;
  const on = fileSystems.filter((system) => disksOf(system, places).includes(disk));
  const isUncertain = fileSystems.some((system) =>
    system.disk?.some((address) => isOnController(address, own) && diskAt(address, places) === null),
  );
  return on.length === 0 && isUncertain ? null : on.map(({ mountpoint }) => path(mountpoint));
}

function disksOf(system: AgentFileSystem, places: readonly DiskPlace[]): string[] {
  const names = (system.disk ?? []).flatMap((address) => diskAt(address, places) ?? []);
  return [...new Set(names)];
}

function toDisks(
  disks: readonly AgentDisk[],
  fileSystems: readonly AgentFileSystem[],
  places: readonly DiskPlace[],
): GuestReport['disks'] {
  // Volumes of volume managers and the like are made of disks, and are none.
  const whole = disks.filter((entry) => !entry.partition && (entry.dependencies ?? []).length === 0);
  return whole.map((entry) => {
    const disk = entry.address ? diskAt(entry.address, places, entry.name) : null;
    const on = disk === null ? [] : fileSystems.filter((system) => disksOf(system, places).includes(disk));
    // One mounted at several places is one file system; one that lies on several disks is none's alone.
    const own = new Map(on.filter((system) => disksOf(system, places).length === 1).map((one) => [one.name, one]));
    return {
      disk,
      device: path(entry.name),
      mountPoints: on.map(({ mountpoint }) => path(mountpoint)),
      usedBytes: sum([...own.values()].map((one) => one['used-bytes'])),
      totalBytes: sum([...own.values()].map((one) => one['total-bytes'])),
    };
  });
}

/** Null where there is nothing to add up, or a part of it is not known. */
function sum(values: readonly (number | undefined)[]): number | null {
  if (values.length === 0) return null;
  let total = 0;
  for (const value of values) {
    if (value === undefined) return null;
    total += value;
  }
  return total;
}
