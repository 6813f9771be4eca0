// Numbers, sizes, dates and durations as the language writes them.
import { currentLanguage } from './language.ts';

const locales = { en: 'en', zh: 'zh-Hans' } as const;

function locale(): string {
  return locales[currentLanguage()];
}

/** 1,234.5 */
export function formatNumber(value: number, digits = 0): string {
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);
}

/** A number of bytes with a binary unit: 1.5 GiB. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${formatNumber(value, value < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

/** A number of MiB with the unit that suits it. */
export function formatMib(mib: number): string {
  return formatBytes(mib * 1024 * 1024);
}

export function formatPercent(percent: number): string {
  return `${formatNumber(percent, percent < 10 ? 1 : 0)} %`;
}

/** Date and time of day, in the time zone of the browser. */
export function formatTime(timestamp: string): string {
  return new Intl.DateTimeFormat(locale(), { dateStyle: 'medium', timeStyle: 'medium' }).format(new Date(timestamp));
}

const steps: readonly (readonly [Intl.RelativeTimeFormatUnit, number])[] = [
  ['year', 31_536_000],
  ['month', 2_592_000],
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
  ['second', 1],
];

/** How long ago, or how far ahead: 3 minutes ago. */
export function formatAgo(timestamp: string, now: number = Date.now()): string {
  const seconds = (Date.parse(timestamp) - now) / 1000;
  const [unit, length] = steps.find(([, each]) => Math.abs(seconds) >= each) ?? (['second', 1] as const);
  const rounded = unit === 'second' && Math.abs(seconds) < 5 ? 0 : Math.trunc(seconds / length);
  return new Intl.RelativeTimeFormat(locale(), { numeric: 'auto' }).format(rounded, unit);
}

/** A length of time: 1 min 5 s. */
export function formatDuration(ms: number): string {
  const total = Math.max(0, ms) / 1000;
  const part = (value: number, unit: string): string =>
    new Intl.NumberFormat(locale(), {
      style: 'unit',
      unit,
      unitDisplay: 'narrow',
      maximumFractionDigits: total < 10 ? 1 : 0,
    }).format(value);
  if (total < 60) return part(total, 'second');
  if (total < 3600) return `${part(Math.floor(total / 60), 'minute')} ${part(Math.floor(total % 60), 'second')}`;
  if (total < 86_400)
    return `${part(Math.floor(total / 3600), 'hour')} ${part(Math.floor((total % 3600) / 60), 'minute')}`;
  return `${part(Math.floor(total / 86_400), 'day')} ${part(Math.floor((total % 86_400) / 3600), 'hour')}`;
}
