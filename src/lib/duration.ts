// Durations as people write and read them: "90s", "5m", "1h30m", "2d"; and ages in one unit: "3m".

const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** A duration that can not be understood. `message` says what is allowed. */
export class DurationError extends Error {
  override name = 'DurationError';
}

/** Parses a duration to milliseconds. A number without a unit is seconds. */
export function parseDurationMs(text: string): number {
  const trimmed = text.trim();
  if (/^\d+(\.\d+)?$/.test(trimmed)) return checked(Number(trimmed) * 1000, text);
  if (!/^(\d+(\.\d+)?(ms|[smhd]))+$/.test(trimmed)) {
    throw new DurationError(
      `"${text.slice(0, 40)}" is not a duration: write seconds, or numbers with ms, s, m, h or d, such as 90s, 5m or 1h30m`,
    );
  }
  let totalMs = 0;
  for (const [, value, unit] of trimmed.matchAll(/(\d+(?:\.\d+)?)(ms|[smhd])/g)) {
    totalMs += Number(value) * (unitMs[unit ?? ''] ?? 0);
  }
  return checked(totalMs, text);
}

/** Parses a duration to whole seconds, rounded up. */
export function parseDurationS(text: string): number {
  return Math.ceil(parseDurationMs(text) / 1000);
}

function checked(valueMs: number, text: string): number {
  if (valueMs > 100 * 365 * 86_400_000) throw new DurationError(`"${text.slice(0, 40)}" is more than 100 years`);
  return valueMs;
}

/** An age in one unit, as in tables: "5s", "3m", "2h", "12d", "3y". Negative ages (clocks differ) are "0s". */
export function formatAge(ageMs: number): string {
  const seconds = Math.max(0, Math.floor(ageMs / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)}h`;
  if (seconds < 2 * 365 * 86_400) return `${Math.floor(seconds / 86_400)}d`;
  return `${Math.floor(seconds / (365 * 86_400))}y`;
}

/** A duration in the two largest units that say something: "850 ms", "2.4s", "3m 20s", "1h 5m", "2d 3h". */
export function formatDuration(durationMs: number): string {
  if (durationMs < 1000) return `${Math.max(0, Math.round(durationMs))} ms`;
  if (durationMs < 9950) return `${(durationMs / 1000).toFixed(1)}s`;
  const seconds = Math.round(durationMs / 1000);
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return two(Math.floor(seconds / 60), 'm', seconds % 60, 's');
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1440) return two(Math.floor(minutes / 60), 'h', minutes % 60, 'm');
  const hours = Math.floor(minutes / 60);
  return two(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

function two(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large}${largeUnit}` : `${large}${largeUnit} ${small}${smallUnit}`;
}
