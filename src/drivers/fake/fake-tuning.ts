// Where the threads of a fake guest would run: it has as many as vCPUs and one besides, and they are where they were put.
import { type VmLimitReport, type VmPlacement, type VmPressure } from '../../api/vm-placement.ts';
import { parseNumberList } from '../../lib/number-list.ts';
import { type GuestLimits, type GuestThread, type GuestTuning } from '../guest-tuning.ts';
import { type FakeProcess } from './fake-guest.ts';

export class FakeTuning implements GuestTuning {
  readonly #read: () => Promise<FakeProcess>;
  #placement: VmPlacement | null = null;
  #limits: GuestLimits = {};

  constructor(read: () => Promise<FakeProcess>) {
    this.#read = read;
  }

  async place(placement: VmPlacement): Promise<void> {
    await this.#read();
    this.#placement = placement;
  }

  async threads(): Promise<GuestThread[]> {
    const { vcpus } = (await this.#read()).hardware;
    const where = new Map(this.#placement?.vcpus.map(({ vcpu, cpus }) => [vcpu, cpus]));
    const thread = (kind: GuestThread['kind'], number: number, name: string, cpus: string): GuestThread => ({
      kind,
      number,
      name,
      threadId: 1 + number,
      allowed: parseNumberList(cpus),
      lastCpu: null,
      cpuSeconds: 0,
    });
    const emulator = this.#placement?.emulator ?? '0';
    return [
      ...Array.from({ length: vcpus }, (_, vcpu) =>
        thread('vcpu', vcpu, `CPU ${vcpu}/FAKE`, where.get(vcpu) ?? emulator),
      ),
      thread('emulator', vcpus, 'fake', emulator),
    ];
  }

  async pressure(): Promise<VmPressure[]> {
    return [];
  }

  async limit(limits: GuestLimits): Promise<VmLimitReport[]> {
    await this.#read();
    this.#limits = { ...this.#limits, ...limits };
    return this.limits(limits);
  }

  async limits(limits: GuestLimits): Promise<VmLimitReport[]> {
    return Object.keys(limits).map((limit) => {
      const value = this.#limits[limit as keyof GuestLimits] ?? null;
      return { limit, wanted: null, observed: value === null ? null : String(value), file: null, reason: null };
    });
  }
}
