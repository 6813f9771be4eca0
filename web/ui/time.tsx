// A moment as "3 minutes ago", which goes on by itself; the exact time is told when it is pointed at.
import { useSyncExternalStore } from 'react';
import { formatAgo, formatTime } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';

let now = Date.now();
const listeners = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | null = null;

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(() => {
    now = Date.now();
    for (const each of listeners) each();
  }, 5000);
  return () => {
    listeners.delete(listener);
    if (listeners.size > 0 || timer === null) return;
    clearInterval(timer);
    timer = null;
  };
}

/** Now, drawn again every five seconds. */
export function useNow(): number {
  return useSyncExternalStore(subscribe, () => now);
}

export function Ago({ at }: { at: string | null | undefined }) {
  useText();
  const current = useNow();
  if (at === null || at === undefined) return <>–</>;
  return (
    <time dateTime={at} title={formatTime(at)}>
      {formatAgo(at, Math.max(current, Date.parse(at)))}
    </time>
  );
}
