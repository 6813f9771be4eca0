// Labels on the command line: key=value.
import { labelKey, labelValue } from '../api/object.ts';
import { usageError } from './usage-error.ts';

/** Labels from "key=value" words. */
export function parseLabels(words: readonly string[] | undefined): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const word of words ?? []) {
    const at = word.indexOf('=');
    const key = at === -1 ? word : word.slice(0, at);
    const value = at === -1 ? '' : word.slice(at + 1);
    if (at === -1 || !labelKey.test(key) || !labelValue.test(value)) {
      throw usageError(`${JSON.stringify(word.slice(0, 80))} is not a label`, {
        hint: 'Write key=value; both take letters, digits, "-", "_" and ".", at most 63 characters: --label app=web',
      });
    }
    labels[key] = value;
  }
  return labels;
}
