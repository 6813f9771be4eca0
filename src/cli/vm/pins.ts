// vCPUs with their CPUs as they are typed: 0=2 1=3-4.
import { usageError } from '../usage-error.ts';

export function parsePins(pins: readonly string[]): { vcpu: number; cpus: string }[] {
  return pins.map((text) => {
    const match = /^(\d{1,4})=(\d[\d,-]*)$/.exec(text);
    if (!match) throw usageError(`"${text}" is not a vCPU with its CPUs`, { hint: 'Write VCPU=CPUS: 0=2 or 1=3-4,7' });
    return { vcpu: Number(match[1]), cpus: match[2]! };
  });
}
