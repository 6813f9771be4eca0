// Frames that guests send and get in tests, byte by byte: also those that no operating system would send. What is not
// to arrive is shown not to by what is sent after it on the same way, and does.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseIp } from '../../src/lib/ip-address.ts';
import { atEnd, type Cleanup } from './cleanup.ts';
import { type NetworkNamespace } from './namespace.ts';
import { eventually } from './wait.ts';

const program = join(import.meta.dirname, 'frames.pl');

function macBytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(':', ''), 'hex');
}

function ipBytes(text: string): Buffer {
  const address = parseIp(text);
  if (!address) throw new RangeError(text);
  return Buffer.from(address.value.toString(16).padStart(address.family === 4 ? 8 : 32, '0'), 'hex');
}

function word(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

/** The checksum of the internet: RFC 1071. */
function checksum(data: Buffer): Buffer {
  let sum = 0;
  for (let index = 0; index < data.length; index += 2) sum += (data[index]! << 8) + (data[index + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return word(~sum & 0xffff);
}

export interface Ends {
  /** MAC addresses. */
  from: string;
  to: string;
  /** IP addresses. */
  source: string;
  destination: string;
}

function ethernet({ from, to }: Pick<Ends, 'from' | 'to'>, type: number, payload: Buffer): Buffer {
  return Buffer.concat([macBytes(to), macBytes(from), word(type), payload]);
}

/** A frame in a VLAN. */
export function tagged(frame: Buffer, vlan: number): Buffer {
  return Buffer.concat([frame.subarray(0, 12), word(0x8100), word(vlan), frame.subarray(12)]);
}

function ip(ends: Ends, protocol: number, payload: Buffer): Buffer {
  const [source, destination] = [ipBytes(ends.source), ipBytes(ends.destination)];
  if (source.length === 16) {
    const header = Buffer.concat([Buffer.from('60000000', 'hex'), word(payload.length), Buffer.from([protocol, 255])]);
    return ethernet(ends, 0x86dd, Buffer.concat([header, source, destination, payload]));
  }
  const header = Buffer.concat([
    Buffer.from('4500', 'hex'),
    word(20 + payload.length),
    Buffer.from('00004000', 'hex'),
    Buffer.from([64, protocol, 0, 0]),
    source,
    destination,
  ]);
  checksum(header).copy(header, 10);
  return ethernet(ends, 0x0800, Buffer.concat([header, payload]));
}

/** A datagram that says `text`. */
export function udpFrame(ends: Ends, ports: readonly [number, number], text: string): Buffer {
  const data = Buffer.from(text);
  const datagram = Buffer.concat([word(ports[0]), word(ports[1]), word(8 + data.length), word(0), data]);
  if (ends.source.includes(':')) transportChecksum(ends, 17, datagram).copy(datagram, 6);
  return ip(ends, 17, datagram);
}

function transportChecksum(ends: Ends, protocol: number, data: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  const next = Buffer.from([0, 0, 0, protocol]);
  return checksum(Buffer.concat([ipBytes(ends.source), ipBytes(ends.destination), length, next, data]));
}

/** A message of ICMPv6 with what stands after its first four bytes. */
export function icmpv6Frame(ends: Ends, type: number, rest: Buffer): Buffer {
  const message = Buffer.concat([Buffer.from([type, 0, 0, 0]), rest]);
  transportChecksum(ends, 58, message).copy(message, 2);
  return ip(ends, 58, message);
}

/** “This address is mine”, unasked: RFC 4861, 4.4. */
export function neighbourAdvertisement(ends: Ends, target: string): Buffer {
  const option = Buffer.concat([Buffer.from([2, 1]), macBytes(ends.from)]);
  return icmpv6Frame(ends, 136, Buffer.concat([Buffer.from('20000000', 'hex'), ipBytes(target), option]));
}

/** “I am a router”: RFC 4861, 4.2. */
export function routerAdvertisement(ends: Ends): Buffer {
  return icmpv6Frame(ends, 134, Buffer.from('400007080000000000000000', 'hex'));
}

/** An ARP answer: “the address is at this MAC address”. */
export function arpFrame(ends: Ends, claimed: { mac: string; address: string }): Buffer {
  const body = [
    Buffer.from('0001080006040002', 'hex'),
    macBytes(claimed.mac),
    ipBytes(claimed.address),
    macBytes(ends.to),
    ipBytes(ends.destination),
  ];
  return ethernet(ends, 0x0806, Buffer.concat(body));
}

/** A link whose frames are sent and heard as they are. */
export interface FrameLink {
  send: (frame: Buffer) => void;
  /** Whether a frame with these bytes in it has arrived. */
  hasHeard: (bytes: Buffer | string) => boolean;
  /** How many frames that are so have arrived. */
  count: (isSo: (frame: Buffer) => boolean) => number;
  /** Waits until a frame with these bytes in it has arrived. */
  untilHeard: (bytes: Buffer | string) => Promise<unknown>;
}

export async function openFrames(test: Cleanup, namespace: NetworkNamespace, link: string): Promise<FrameLink> {
  const [command, ...args] = namespace.command(['perl', program, link]);
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  atEnd(test, async () => {
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await ended;
  });
  const heard: string[] = [];
  const lines = createInterface({ input: child.stdout });
  await once(lines, 'line', { signal: AbortSignal.timeout(20_000) });
  lines.on('line', (line) => heard.push(line));
  const hasHeard = (bytes: Buffer | string): boolean => {
    const hex = Buffer.from(bytes as string).toString('hex');
    return heard.some((line) => line.includes(hex));
  };
  return {
    send: (frame) => void child.stdin.write(`${frame.toString('hex')}\n`),
    hasHeard,
    count: (isSo) => heard.filter((line) => isSo(Buffer.from(line, 'hex'))).length,
    untilHeard: (bytes) => eventually(() => hasHeard(bytes), { describe: `a frame with ${String(bytes)} arrives` }),
  };
}
