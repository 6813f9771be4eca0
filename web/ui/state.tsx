// The state of anything, in a colour, a sign and a word: never in a colour alone.
import { Badge } from '@mantine/core';
import { sayOr, useText } from '../i18n/language.ts';

const colors: Readonly<Record<string, string>> = {
  running: 'green',
  ready: 'green',
  succeeded: 'green',
  done: 'green',
  ok: 'green',
  pass: 'green',
  allow: 'green',
  allowed: 'green',
  enforcing: 'green',
  paused: 'yellow',
  partial: 'yellow',
  degraded: 'yellow',
  warning: 'yellow',
  warn: 'yellow',
  suspended: 'indigo',
  note: 'blue',
  info: 'blue',
  crashed: 'red',
  failed: 'red',
  fail: 'red',
  deny: 'red',
  denied: 'red',
  error: 'red',
  offline: 'red',
  'undo-failed': 'red',
};

const moving = new Set([
  'creating',
  'starting',
  'stopping',
  'suspending',
  'deleting',
  'pending',
  'importing',
  'queued',
  'cancelling',
  'undoing',
]);

export function State({ state }: { state: string }) {
  useText();
  const isMoving = moving.has(state);
  const color = colors[state] ?? (isMoving ? 'blue' : 'gray');
  return (
    <Badge
      className="state"
      data-tone={color}
      leftSection={<span className={isMoving ? 'pulse' : undefined}>{state === 'stopped' ? '○' : '●'}</span>}
      data-state={state}
    >
      {sayOr(`state.${state}`, state)}
    </Badge>
  );
}
