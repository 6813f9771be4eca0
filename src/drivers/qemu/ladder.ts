// The accelerator ladder of this node as the driver uses it: probed once a boot, since what the probe guests show only
// changes with the kernel, its modules or QEMU, and kept on disk so that a restarted daemon need not run them again.
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LodgeError } from '../../api/errors.ts';
import { type AcceleratorRung, type NodeStatus } from '../../api/node.ts';
import { readBootId } from '../../host/process.ts';
import { type CallOptions } from '../driver.ts';
import { type QemuInstallation } from './installation.ts';
import { unsupportedField } from './spec-check.ts';
import { chooseAccelerator, probeLadder, type AcceleratorChoice, type ProbedRung } from './probe/probe.ts';

interface KeptLadder {
  bootId: string;
  binary: string;
  qemuVersion: string;
  rungs: ProbedRung[];
}

export class AcceleratorLadder {
  readonly #directory: string;
  readonly #allowed: 'auto' | 'kvm' | 'tcg';
  #probing: Promise<readonly ProbedRung[]> | null = null;

  /** `directory`: where the result is kept. `allowed`: what this installation may use; `auto` is everything. */
  constructor(directory: string, allowed: 'auto' | 'kvm' | 'tcg' = 'auto') {
    this.#directory = directory;
    this.#allowed = allowed;
  }

  /** All rungs with what was seen, and what `auto` means for an ordinary guest. */
  async climb(
    installation: QemuInstallation,
    options: CallOptions & { isFresh?: boolean } = {},
  ): Promise<{ rungs: AcceleratorRung[]; chosen: NodeStatus['accelerator'] }> {
    if (options.isFresh) this.#probing = this.#probe(installation);
    const rungs = await this.#rungs(installation);
    const shown = rungs.map(({ rung, isUsable, isForOrdinaryGuests, reason, cpuModel, startMs, costs }) => ({
      rung,
      isUsable,
      isForOrdinaryGuests,
      reason,
      cpuModel,
      startMs,
      costs,
    }));
    const isFit = ({ isUsable, accelerator }: ProbedRung): boolean =>
      isUsable && (this.#allowed === 'auto' || accelerator === this.#allowed);
    if (!rungs.some(isFit)) return { rungs: shown, chosen: null };
    const { accelerator, rung, reason } = chooseAccelerator(rungs, this.#allowed);
    return { rungs: shown, chosen: { chosen: accelerator, rung, reason } };
  }

  /** The accelerator for a guest. Throws `unsupported` where what is wanted can't be had. */
  async choose(installation: QemuInstallation, wanted: 'auto' | 'kvm' | 'tcg'): Promise<AcceleratorChoice> {
    if (this.#allowed !== 'auto' && wanted !== 'auto' && wanted !== this.#allowed) {
      throw unsupportedField(
        'spec.accelerator',
        `the configuration of this node allows only ${this.#allowed}`,
        wanted,
        `Set accelerator to auto or ${this.#allowed}, or change qemu.accelerator in the configuration.`,
      );
    }
    return chooseAccelerator(await this.#rungs(installation), wanted === 'auto' ? this.#allowed : wanted);
  }

  /** Throws `unsupported`, naming the field, where a spec wants an accelerator that can't be had. */
  async check(installation: QemuInstallation, wanted: 'auto' | 'kvm' | 'tcg'): Promise<void> {
    if (wanted === 'auto') return;
    try {
      await this.choose(installation, wanted);
    } catch (error) {
      if (!(error instanceof LodgeError) || error.fields) throw error;
      const { code, message, hint } = error;
      throw new LodgeError(code, `spec.accelerator: ${message}`, {
        hint,
        fields: [{ field: 'spec.accelerator', message, value: wanted }],
        cause: error,
      });
    }
  }

  /** All rungs, best first, as the driver knows them. */
  probed(installation: QemuInstallation): Promise<readonly ProbedRung[]> {
    return this.#rungs(installation);
  }

  #rungs(installation: QemuInstallation): Promise<readonly ProbedRung[]> {
    this.#probing ??= this.#recall(installation).then((kept) => kept ?? this.#probe(installation));
    this.#probing.catch(() => {
      this.#probing = null;
    });
    return this.#probing;
  }

  async #probe(installation: QemuInstallation): Promise<ProbedRung[]> {
    const rungs = await probeLadder({ binary: installation.binary });
    const kept: KeptLadder = {
      bootId: readBootId(),
      binary: installation.binary,
      qemuVersion: installation.version,
      rungs,
    };
    await mkdir(this.#directory, { recursive: true });
    await writeFile(`${this.#path}.new`, JSON.stringify(kept));
    await rename(`${this.#path}.new`, this.#path);
    return rungs;
  }

  async #recall(installation: QemuInstallation): Promise<ProbedRung[] | null> {
    try {
      const kept = JSON.parse(await readFile(this.#path, 'utf8')) as KeptLadder;
      const isCurrent =
        kept.bootId === readBootId() &&
        kept.binary === installation.binary &&
        kept.qemuVersion === installation.version;
      return isCurrent ? kept.rungs : null;
    } catch (error) {
      if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw new LodgeError('host_failed', `What the probe guests showed can’t be read from ${this.#path}.`, {
        cause: error,
      });
    }
  }

  get #path(): string {
    return join(this.#directory, 'accelerators.json');
  }
}
