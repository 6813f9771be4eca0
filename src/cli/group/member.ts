// A member of a group as it is written on the command line: "web1", or "web1,order=2,delay=30s,ready=port:80".
import type { GroupSpecInput } from '../../api/group.ts';
import { parseDurationS } from '../../lib/duration.ts';
import { usageError } from '../usage-error.ts';

export type MemberInput = NonNullable<GroupSpecInput['members']>[number];

const keys = ['order', 'delay', 'ready', 'ready-timeout', 'if-not-ready', 'stop-timeout'] as const;
const readyWords = 'running, agent, port:NUMBER or command:PROGRAM ARGUMENT…';

/** Reads a member. What isn't given stays out, so that the contract's defaults hold. */
export function parseMember(text: string): MemberInput {
  const [vm = '', ...fields] = text.split(',').map((part) => part.trim());
  if (vm === '' || vm.includes('='))
    throw usageError(`--member ${text}: begins with the name of a VM`, {
      hint: 'Such as --member web1,order=2,delay=30s,ready=port:80',
    });
  const member: MemberInput = { vm };
  for (const field of fields) {
    const at = field.indexOf('=');
    const key = at === -1 ? field : field.slice(0, at);
    const value = at === -1 ? '' : field.slice(at + 1);
    if (at === -1 || value === '' || !(keys as readonly string[]).includes(key))
      throw usageError(`--member ${text}: "${field}" is not understood`, {
        hint: `A VM is followed by ${keys.map((one) => `${one}=…`).join(', ')}, with commas between them.`,
      });
    Object.assign(member, fieldsOf(key as (typeof keys)[number], value, text));
  }
  return member;
}

function fieldsOf(key: (typeof keys)[number], value: string, text: string): Partial<MemberInput> {
  switch (key) {
    case 'order':
      return { order: wholeNumber(value, text, 'order', 1000) };
    case 'delay':
      return { delayS: seconds(value, text) };
    case 'ready-timeout':
      return { readyTimeoutS: seconds(value, text) };
    case 'stop-timeout':
      return { stopTimeoutS: seconds(value, text) };
    case 'if-not-ready':
      if (value === 'stop' || value === 'continue') return { ifNotReady: value };
      throw usageError(`--member ${text}: if-not-ready is stop or continue, not ${value}`);
    case 'ready':
      return { ready: readiness(value, text) };
  }
}

function readiness(value: string, text: string): NonNullable<MemberInput['ready']> {
  if (value === 'running' || value === 'agent') return { type: value };
  const type = value.split(':')[0];
  const rest = value.slice(value.indexOf(':') + 1);
  if (type === 'port' && value.includes(':')) return { type, port: wholeNumber(rest, text, 'ready=port', 65_535) };
  const command = rest.split(/\s+/).filter(Boolean);
  if (type === 'command' && value.includes(':') && command.length > 0) return { type, command };
  throw usageError(`--member ${text}: ready is ${readyWords}, not ${value}`, {
    hint: 'Arguments with spaces or commas are given in a file: lodge apply -f group.yaml',
  });
}

function wholeNumber(value: string, text: string, what: string, most: number): number {
  const number = Number(value);
  if (/^\d+$/.test(value) && number >= 1 && number <= most) return number;
  throw usageError(`--member ${text}: ${what} is a whole number from 1 to ${most}, not ${value}`);
}

function seconds(value: string, text: string): number {
  try {
    return parseDurationS(value);
  } catch (cause) {
    throw usageError(`--member ${text}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}
