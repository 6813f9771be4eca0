// What balloons leave guests when the node is short of memory, and how they get it back. Pure: what was read goes in, the
// targets come out. Only guests with a guaranteed minimum take part.
//
//   tight ──▶ first what guests leave idle, those with the most of it first; then down to their guarantees
//   ample, and nothing was taken for `quietMs` ──▶ a little back to each, those with the least idle first
//   between the two ──▶ as it is
//
// Invariants: no target is under its guest's guarantee or above its full memory; a round takes or gives a part only, so that
// guests can follow; what is given back leaves the node ample.
import { type MemoryLoad } from './memory-load.ts';

const mib = 2 ** 20;

export interface BalloonGuest {
  id: string;
  /** All that it may have. */
  fullMib: number;
  /** What is never taken. */
  guaranteedMib: number;
  /** What its balloon leaves it now. */
  nowMib: number;
  /** What its system doesn't use, as it tells; null: it doesn't tell. */
  idleMib: number | null;
}

/** Less than this share of the memory available: tight. KSM begins earlier, as it takes nothing from anybody. */
const tightPercent = 10;
/** Again ample from this share on. */
const amplePercent = 15;
/** Waiting for memory counts as tight only while less than this is available: a VM's own limit makes it wait, too. */
const waitingPercent = 20;
const tightPressurePercent = 10;
const calmPressurePercent = 1;
/** Taken in a round of one guest, and given back: parts of its full memory. */
const takePercent = 10;
const returnPercent = 3;
/** Of what is idle, so much is left: a guest without any free memory begins to swap. */
const leftIdlePercent = 25;
/** Smaller changes are not worth a round. */
const leastChangeMib = 8;
/** For so long nothing is given back after something was taken. */
export const quietMs = 60_000;

/**
 * The new targets of those guests that get one, MiB by id. `sinceTakenMs`: how long ago something was taken; infinite: never.
 */
export function balloonTargets(
  guests: readonly BalloonGuest[],
  load: MemoryLoad,
  sinceTakenMs: number,
): { kind: 'take' | 'return' | 'stay'; targets: Map<string, number> } {
  const { totalBytes, availableBytes } = load;
  const pressure = load.pressurePercent ?? 0;
  const share = (percent: number): number => (totalBytes * percent) / 100;
  const isWaiting = pressure >= tightPressurePercent && availableBytes < share(waitingPercent);
  if (availableBytes < share(tightPercent) || isWaiting) {
    // Down to the middle between tight and ample, or where work waits without that, a hundredth.
    const lack = share((tightPercent + amplePercent) / 2) - availableBytes;
    return { kind: 'take', targets: taken(guests, Math.max(lack, share(1)) / mib) };
  }
  const room = (availableBytes - share(amplePercent)) / mib;
  if (room <= 0 || pressure >= calmPressurePercent || sinceTakenMs < quietMs)
    return { kind: 'stay', targets: new Map() };
  return { kind: 'return', targets: returned(guests, room) };
}

function taken(guests: readonly BalloonGuest[], lackMib: number): Map<string, number> {
  const targets = new Map<string, number>();
  const most = ({ id, fullMib, guaranteedMib, nowMib }: BalloonGuest): number => {
    const before = nowMib - (targets.get(id) ?? nowMib);
    return Math.min(nowMib - Math.min(guaranteedMib, fullMib), (fullMib * takePercent) / 100) - before;
  };
  let lack = lackMib;
  const take = (guest: BalloonGuest, limitMib: number): void => {
    const amount = Math.floor(Math.min(Math.max(lack, leastChangeMib), most(guest), limitMib));
    if (lack <= 0 || amount < leastChangeMib) return;
    targets.set(guest.id, (targets.get(guest.id) ?? guest.nowMib) - amount);
    lack -= amount;
  };
  const byIdle = guests.toSorted((a, b) => (b.idleMib ?? 0) - (a.idleMib ?? 0));
  for (const guest of byIdle) take(guest, ((guest.idleMib ?? 0) * (100 - leftIdlePercent)) / 100);
  for (const guest of byIdle) take(guest, Number.POSITIVE_INFINITY);
  return targets;
}

function returned(guests: readonly BalloonGuest[], roomMib: number): Map<string, number> {
  const targets = new Map<string, number>();
  let room = roomMib;
  for (const { id, fullMib, nowMib } of guests.toSorted((a, b) => (a.idleMib ?? 0) - (b.idleMib ?? 0))) {
    const step = Math.max((fullMib * returnPercent) / 100, leastChangeMib);
    const amount = Math.floor(Math.min(fullMib - nowMib, step, room));
    if (amount < 1) continue;
    targets.set(id, nowMib + amount);
    room -= amount;
  }
  return targets;
}
