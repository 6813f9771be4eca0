// How much the daemon does at once: requests, streams and WebSockets under way are counted, in all and for each caller,
// and what is over the limit is refused with `rate_limited` before it costs anything.
import { LodgeError } from '../../api/errors.ts';

export type WorkKind = 'request' | 'stream' | 'websocket';

export type AdmissionLimits = Readonly<Record<WorkKind, { total: number; perCaller: number }>>;

const names: Readonly<Record<WorkKind, string>> = {
  request: 'requests',
  stream: 'streams and transfers',
  websocket: 'consoles',
};

/** Counts what is under way. Every admission is given back exactly once, however the work ends. */
export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #total: Record<WorkKind, number> = { request: 0, stream: 0, websocket: 0 };
  readonly #byCaller = new Map<string, number>();

  constructor(limits: AdmissionLimits) {
    this.#limits = limits;
  }

  /** What is under way now. */
  count(kind: WorkKind): number {
    return this.#total[kind];
  }

  /** Admits one more, or throws `rate_limited`. The function it gives back ends it; calling it again does nothing. */
  enter(kind: WorkKind, caller: string): () => void {
    const { total, perCaller } = this.#limits[kind];
    const key = `${kind} ${caller}`;
    const own = this.#byCaller.get(key) ?? 0;
    if (this.#total[kind] >= total)
      throw refusal(`the daemon serves ${total} ${names[kind]} at once, and that many are under way`);
    if (own >= perCaller) {
      throw refusal(`one caller may have ${perCaller} ${names[kind]} at once, and ${caller} has that many under way`);
    }
    this.#total[kind] += 1;
    this.#byCaller.set(key, own + 1);
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.#total[kind] -= 1;
      const left = (this.#byCaller.get(key) ?? 1) - 1;
      if (left === 0) this.#byCaller.delete(key);
      else this.#byCaller.set(key, left);
    };
  }
}

function refusal(message: string): LodgeError {
  return new LodgeError('rate_limited', message);
}
