// Whether a VM can go on from the memory of another: its guest has found its hardware at boot, and its first boot is over.
// Pure.
import { type VmSpec } from '../../api/vm-spec.ts';
import { specOfCopy } from '../vm/fork-copies.ts';

/** What only the host knows of, what may differ from one VM to the next, and what other fields have come from. */
const free: ReadonlySet<keyof VmSpec> = new Set([
  'description',
  'autostart',
  'restartPolicy',
  'stopTimeoutS',
  'instanceType',
  'profiles',
  'inherited',
]);

/** Null: nothing speaks against it. Otherwise the first field that differs, with both values, for people. */
export function whyNotWarm(prepared: VmSpec, wanted: VmSpec): string | null {
  const [before, now] = [comparable(prepared), comparable(wanted)];
  for (const field of new Set([...Object.keys(before), ...Object.keys(now)]) as Set<keyof VmSpec>) {
    if (free.has(field)) continue;
    const difference = differenceAt(field, before[field], now[field]);
    if (difference) return difference;
  }
  return null;
}

function comparable(spec: VmSpec): VmSpec {
  const copy = specOfCopy(spec, { networks: spec.nics.map(() => ''), sizes: new Map() });
  const nics = copy.nics.map((nic) => ({ ...nic, isConnected: true }));
  // What was hashed has a salt of its own each time, and neither is applied again.
  const cloudInit = copy.cloudInit && { ...copy.cloudInit, ...(copy.cloudInit.password ? { password: '' } : {}) };
  return JSON.parse(JSON.stringify({ ...copy, nics, cloudInit, smbios: copy.smbios ?? {} })) as VmSpec;
}

function differenceAt(path: string, before: unknown, now: unknown): string | null {
  if (before === now) return null;
  const isNested = (value: unknown): value is object => typeof value === 'object' && value !== null;
  if (isNested(before) && isNested(now)) {
    for (const key of new Set([...Object.keys(before), ...Object.keys(now)])) {
      const [one, other] = [before, now].map((value) => (value as Record<string, unknown>)[key]);
      const difference = differenceAt(`${path}.${key}`, one, other);
      if (difference) return difference;
    }
    return null;
  }
  if (path.startsWith('cloudInit')) return `${path} is another, and first-boot data counts at the first boot only`;
  return `${path} is ${shown(now)}, and it was prepared with ${shown(before)}`;
}

function shown(value: unknown): string {
  return value === undefined ? 'not set' : JSON.stringify(value).slice(0, 80);
}
