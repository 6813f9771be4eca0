// KSM of this machine as the node's spec has it: off (as the machine had it), on (the kernel's own pace), auto (the pace
// follows how short of memory the machine is).
//
// Invariants:
// - What a file of the kernel held is noted before it is written, and written back when the spec doesn't need it any more.
// - Callers make one call after the other: nothing here runs twice at a time.
// - In auto, the pace changes once in `stepMs` at most, and the kernel's advisor rests: it refuses a pace given beside it.
//
// Source: the kernel's Documentation/admin-guide/mm/ksm.rst; mm/ksm.c for what a change of the advisor does to the pace.
import { readFileSync, writeFileSync } from 'node:fs';
import { type Node } from '../../api/node.ts';
import { type HostSetting } from '../../api/vm-memory.ts';
import { nextKsmPages } from './ksm-rate.ts';
import { type MemoryLoad } from './memory-load.ts';

export interface KsmTuningParts {
  /** What was noted of the machine; other settings than those of KSM are left as they are. */
  read: () => readonly HostSetting[];
  write: (settings: HostSetting[]) => Promise<void>;
  load: () => Promise<MemoryLoad>;
  /** Milliseconds of a clock that only goes forward. */
  nowMs: () => number;
  kernel: KernelFiles;
}

/** Files of the kernel. */
export interface KernelFiles {
  /** What a file holds, without the line's end; null: there is no such file, or it can't be read. */
  text: (path: string) => string | null;
  /** Throws the system's error, when the kernel refuses it. */
  write: (path: string, value: string) => void;
}

export const kernelFiles: KernelFiles = {
  text: (path) => {
    try {
      return readFileSync(path, 'utf8').trim();
    } catch {
      return null;
    }
  },
  write: (path, value) => writeFileSync(path, value, { flag: 'r+' }),
};

const runFile = '/sys/kernel/mm/ksm/run';
/** Chooses the pace by itself, on kernels from 6.8 on. */
const advisorFile = '/sys/kernel/mm/ksm/advisor_mode';
const pagesFile = '/sys/kernel/mm/ksm/pages_to_scan';
const ownFiles = [runFile, advisorFile, pagesFile];

/** Pressure is a mean of 10 s: looking more often would count the same shortage twice. */
export const stepMs = 10_000;
/** What the kernel sets when its advisor changes to none (DEFAULT_PAGES_TO_SCAN). */
const kernelPages = '100';

export class KsmTuning {
  readonly #parts: KsmTuningParts;
  #steppedMs = Number.NEGATIVE_INFINITY;

  constructor(parts: KsmTuningParts) {
    this.#parts = parts;
  }

  /** Whether `apply('auto')` would look at the memory again. */
  isStepDue(): boolean {
    return this.#parts.nowMs() - this.#steppedMs >= stepMs;
  }

  /** Makes it as the spec says, or puts back what was there before. */
  async apply(spec: Node['spec']['ksm']): Promise<void> {
    const noted = this.#parts.read();
    const others = noted.filter(({ path }) => !ownFiles.includes(path));
    if (spec !== 'on' && spec !== 'auto') {
      this.#putBack(noted);
      if (others.length < noted.length) await this.#parts.write(others);
      return;
    }
    const wishes =
      spec === 'on'
        ? [[advisorFile, 'scan-time'] as const, [runFile, '1'] as const]
        : [
            [advisorFile, 'none'] as const,
            [pagesFile, String(await this.#nextPages())] as const,
            [runFile, '1'] as const,
          ];
    const made = wishes.flatMap(([path, current]): HostSetting[] => {
      const original = this.#originalOf(path, noted);
      return original === null ? [] : [{ path, original, current, reason: `KSM is ${spec} for the node (spec.ksm).` }];
    });
    // The advisor that is switched on overwrites the pace that the machine had.
    const pace = spec === 'on' && this.#valueOf(advisorFile) !== null ? this.#originalOf(pagesFile, noted) : null;
    const kept: HostSetting[] =
      pace === null
        ? []
        : [{ path: pagesFile, original: pace, current: pace, reason: 'The kernel chooses it while KSM is on.' }];
    const next = [...others, ...made, ...kept];
    // What it was is known before it is changed, whatever happens in between.
    if (JSON.stringify(next) !== JSON.stringify(noted)) await this.#parts.write(next);
    for (const { path, current } of made) this.#change(path, current);
  }

  /** The pace from now on; as it is, when it was looked at a moment ago. */
  async #nextPages(): Promise<number> {
    const advisor = this.#valueOf(advisorFile);
    const current = Number(advisor === null || advisor === 'none' ? this.#valueOf(pagesFile) : kernelPages);
    if (!this.isStepDue()) return current;
    this.#steppedMs = this.#parts.nowMs();
    return nextKsmPages(current, await this.#parts.load());
  }

  /** What a file held before Lodge changed it; null: there is none. */
  #originalOf(path: string, noted: readonly HostSetting[]): string | null {
    const value = this.#valueOf(path);
    if (value === null) return null;
    const before = noted.find((one) => one.path === path)?.original;
    if (before !== undefined) return before;
    // Where only the advisor was noted, the pace is the advisor's by now: the kernel's own is the best that is known.
    const isAdvised = noted.some((one) => one.path === advisorFile);
    return path === pagesFile && isAdvised ? kernelPages : value;
  }

  /** A change of the advisor sets the pace, so the pace comes last; beside an advisor that works, it is the advisor's. */
  #putBack(noted: readonly HostSetting[]): void {
    for (const path of ownFiles) {
      const original = noted.find((one) => one.path === path)?.original;
      if (original === undefined) continue;
      const isAdvised = path === pagesFile && (this.#valueOf(advisorFile) ?? 'none') !== 'none';
      if (!isAdvised) this.#change(path, original);
    }
    this.#steppedMs = Number.NEGATIVE_INFINITY;
  }

  /** What is so already is not written again: the kernel takes a change of the advisor for a new beginning. */
  #change(path: string, value: string): void {
    if (this.#valueOf(path) !== value) this.#parts.kernel.write(path, value);
  }

  /** What a file holds; of a choice such as `[none] scan-time`, what is chosen. */
  #valueOf(path: string): string | null {
    const text = this.#parts.kernel.text(path);
    return text === null ? null : (/\[(.+)\]/.exec(text)?.[1] ?? text);
  }
}
