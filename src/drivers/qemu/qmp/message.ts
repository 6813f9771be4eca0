// Reads QMP's messages: what a line from QEMU means. Throws for what can't be one; a JSON object of a kind not known
// here is no error, so that a later QEMU may add kinds.
import { events } from './events.ts';
import type { RawEvent } from './event-hub.ts';

export interface QmpGreeting {
  /** QEMU's version, for people; features are read from the schema. */
  readonly version: string;
  /** The distribution's name for its package; may be empty. */
  readonly package: string;
  readonly capabilities: readonly string[];
}

export type QmpMessage =
  | { kind: 'return'; id: number | null; value: unknown }
  | { kind: 'error'; id: number | null; errorClass: string; description: string }
  | { kind: 'event'; event: RawEvent }
  | { kind: 'unknown' };

type Fields = Record<string, unknown>;

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parseObject(line: Buffer): Fields {
  let value: unknown;
  try {
    value = JSON.parse(line.toString('utf8'));
  } catch {
    throw new Error(`a line that is not JSON: ${quote(line)}`);
  }
  if (!isObject(value)) throw new Error(`a line that is not a JSON object: ${quote(line)}`);
  return value;
}

/** The beginning of a line, for an error message. */
function quote(line: Buffer): string {
  const text = line.subarray(0, 80).toString('latin1');
  return JSON.stringify(line.length > 80 ? `${text}…` : text);
}

export function parseGreeting(line: Buffer): QmpGreeting {
  const qmp = parseObject(line)['QMP'];
  if (!isObject(qmp) || !isObject(qmp['version'])) throw new Error(`no greeting but ${quote(line)}`);
  const { qemu, package: packageName } = qmp['version'];
  const parts = isObject(qemu) ? [qemu['major'], qemu['minor'], qemu['micro']] : [];
  const capabilities = Array.isArray(qmp['capabilities']) ? (qmp['capabilities'] as unknown[]) : [];
  return {
    version: parts.join('.'),
    package: typeof packageName === 'string' ? packageName : '',
    capabilities: capabilities.filter((name) => typeof name === 'string'),
  };
}

export function parseMessage(line: Buffer): QmpMessage {
  const fields = parseObject(line);
  const id = typeof fields['id'] === 'number' ? fields['id'] : null;
  if ('return' in fields) return { kind: 'return', id, value: fields['return'] };
  if ('error' in fields) {
    const error = isObject(fields['error']) ? fields['error'] : {};
    const { class: errorClass, desc } = error;
    return {
      kind: 'error',
      id,
      errorClass: typeof errorClass === 'string' ? errorClass : 'GenericError',
      description: typeof desc === 'string' ? desc : 'an error without a description',
    };
  }
  if (typeof fields['event'] === 'string') {
    return { kind: 'event', event: toEvent(fields['event'], fields['data'], fields['timestamp']) };
  }
  return { kind: 'unknown' };
}

function toEvent(name: string, data: unknown, timestamp: unknown): RawEvent {
  const { seconds, microseconds } = isObject(timestamp) ? timestamp : {};
  // QEMU sends -1 for both where its clock failed.
  const isKnown = typeof seconds === 'number' && typeof microseconds === 'number' && seconds >= 0;
  const timeMs = isKnown ? seconds * 1000 + Math.floor(microseconds / 1000) : Date.now();
  return { name, data: isObject(data) ? data : {}, timeMs, isKnown: Object.hasOwn(events, name) };
}
