// What the page for creating VMs holds, and what follows from it: the requests, the same as commands, the same as YAML.
import { type VmSpecInput } from '../../src/api/vm-spec.ts';
import { shellWord } from '../../src/lib/shell-word.ts';

/** What is filled in; empty and null stand for the default. */
export interface CreateDraft {
  name: string;
  count: number;
  image: string | null;
  instanceType: string | null;
  vcpus: number;
  memoryMib: number;
  /** Size of the root disk, MiB; null: as the image says, or none. */
  diskMib: number | null;
  network: string | null;
  hardware: string | null;
  os: string | null;
  profiles: string[];
  sshKeys: string;
  userData: string;
  autostart: boolean;
  isStarted: boolean;
  labels: string;
  description: string;
}

export const emptyDraft: CreateDraft = {
  name: '',
  count: 1,
  image: null,
  instanceType: null,
  vcpus: 1,
  memoryMib: 512,
  diskMib: null,
  network: 'default',
  hardware: null,
  os: null,
  profiles: [],
  sshKeys: '',
  userData: '',
  autostart: false,
  isStarted: true,
  labels: '',
  description: '',
};

/** Names of the VMs: one as it is, several numbered. */
export function draftNames({ name, count }: CreateDraft): string[] {
  return count === 1 ? [name] : Array.from({ length: count }, (_, index) => `${name}-${index + 1}`);
}

/** `app=web,tier=front` as labels; what is no pair is left out. */
export function draftLabels({ labels }: CreateDraft): Record<string, string> {
  const pairs = labels.split(',').map((one) => one.trim().split('=', 2));
  return Object.fromEntries(pairs.filter(([key = '']) => key !== '').map(([key = '', value = '']) => [key, value]));
}

function keys({ sshKeys }: CreateDraft): string[] {
  return sshKeys
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}

/** The spec; what is as by default is left out, so that it reads as what was chosen. */
export function draftSpec(draft: CreateDraft): VmSpecInput {
  const sshKeys = keys(draft);
  const { userData } = draft;
  return {
    ...(draft.description === '' ? {} : { description: draft.description }),
    ...(draft.image === null ? {} : { image: draft.image }),
    ...(draft.instanceType === null
      ? {
          ...(draft.vcpus === emptyDraft.vcpus ? {} : { cpu: { count: draft.vcpus } }),
          ...(draft.memoryMib === emptyDraft.memoryMib ? {} : { memoryMib: draft.memoryMib }),
        }
      : { instanceType: draft.instanceType }),
    ...(draft.os === null ? {} : { os: draft.os as NonNullable<VmSpecInput['os']> }),
    ...(draft.hardware === null ? {} : { hardware: draft.hardware as NonNullable<VmSpecInput['hardware']> }),
    ...(draft.diskMib === null ? {} : { disks: [{ name: 'root', sizeMib: draft.diskMib }] }),
    ...(draft.network === 'default' ? {} : { nics: draft.network === null ? [] : [{ network: draft.network }] }),
    ...(draft.profiles.length === 0 ? {} : { profiles: draft.profiles }),
    ...(sshKeys.length === 0 && userData === ''
      ? {}
      : { cloudInit: { ...(sshKeys.length === 0 ? {} : { sshKeys }), ...(userData === '' ? {} : { userData }) } }),
    ...(draft.autostart ? { autostart: true } : {}),
  };
}

/** One command for each VM. */
export function draftCommands(draft: CreateDraft): string[] {
  const words: string[] = [];
  const option = (name: string, value: string | null): void => {
    if (value !== null && value !== '') words.push(name, shellWord(value));
  };
  option('--image', draft.image);
  if (draft.instanceType === null) {
    if (draft.vcpus !== emptyDraft.vcpus) option('--cpus', String(draft.vcpus));
    if (draft.memoryMib !== emptyDraft.memoryMib) option('--memory', `${draft.memoryMib}MiB`);
  } else option('--type', draft.instanceType);
  option('--os', draft.os);
  option('--hardware', draft.hardware);
  option('--disk', draft.diskMib === null ? null : `${draft.diskMib}MiB`);
  if (draft.network !== 'default') option('--network', draft.network ?? 'none');
  for (const profile of draft.profiles) option('--profile', profile);
  for (const key of keys(draft)) option('--ssh-key', key);
  if (draft.userData !== '') option('--user-data', 'user-data.yaml');
  for (const [key, value] of Object.entries(draftLabels(draft))) option('--label', `${key}=${value}`);
  option('--description', draft.description);
  if (draft.autostart) words.push('--autostart');
  if (!draft.isStarted) words.push('--no-start');
  const rest = words.length === 0 ? '' : ` ${words.join(' ')}`;
  return draftNames(draft).map((name) => `lodge vm create ${shellWord(name === '' ? 'NAME' : name)}${rest}`);
}

/** The objects as `lodge apply` takes them. */
export function draftDocuments(draft: CreateDraft): object[] {
  const labels = draftLabels(draft);
  return draftNames(draft).map((name) => ({
    kind: 'Vm',
    name,
    ...(Object.keys(labels).length === 0 ? {} : { labels }),
    spec: draftSpec(draft),
  }));
}
