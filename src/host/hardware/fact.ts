// A fact about the hardware, as it is told to people: what it is called, whether it is so, what it means for a guest, and
// where that was read.

/** What is known of one ability of the hardware. */
export interface HardwareFact {
  /** A word for programs: `ept-1gib-pages`. */
  readonly name: string;
  /** The makers' own term: `EPT 1-GiB pages`. */
  readonly title: string;
  /** Whether the processor or the chipset has it; null: it can't be told here. */
  readonly isPresent: boolean | null;
  /** A number or a text that belongs to it, with its unit; null: it only is there or not. */
  readonly value: string | null;
  /** Whether the kernel makes use of it; null: the kernel doesn't say. */
  readonly isUsed: boolean | null;
  /** What it does for a guest. */
  readonly explanation: string;
  /** Where it was read, with the manual's place. */
  readonly source: string;
}

/** Facts that belong together. */
export interface HardwareGroup {
  readonly name: 'vt-x' | 'amd-v' | 'kvm' | 'iommu' | 'confidential' | 'mitigations';
  readonly title: string;
  readonly explanation: string;
  readonly facts: HardwareFact[];
}

/** A module's parameter as yes or no; null: there is no such module or parameter. */
export function readSwitch(text: string | null): boolean | null {
  if (text === null) return null;
  if (/^(Y|1|y|on)$/.test(text)) return true;
  return /^(N|0|n|off)$/.test(text) ? false : null;
}
