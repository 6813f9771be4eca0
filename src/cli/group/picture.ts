// A group as a small picture: its stages from top to bottom, in the order in which they are started, each member with its
// state and what is waited for.
import type { Group, GroupMember, GroupReadiness } from '../../api/group.ts';
import { formatDuration } from '../../lib/duration.ts';
import { escapeControls, padToWidth, displayWidth } from '../../lib/terminal-text.ts';
import type { Style } from '../output/style.ts';
import { colorState } from '../view.ts';

/** When a member counts as ready, in words; empty where that needs no words. */
export function readinessText(ready: GroupReadiness): string {
  switch (ready.type) {
    case 'running':
      return '';
    case 'agent':
      return 'ready when its agent answers';
    case 'port':
      return `ready when port ${ready.port} is open`;
    case 'command':
      return `ready when ${ready.command.join(' ')} succeeds`;
  }
}

function notesOf(member: GroupMember): string {
  const { delayS, ready, readyTimeoutS, ifNotReady } = member;
  const seconds = (value: number): string => formatDuration(value * 1000);
  const readiness = readinessText(ready);
  const within = readiness === '' ? '' : ` (within ${seconds(readyTimeoutS)})`;
  return [
    ...(delayS > 0 ? [`after ${seconds(delayS)}`] : []),
    ...(readiness === '' ? [] : [readiness + within]),
    ...(ifNotReady === 'continue' ? ['the start goes on without it'] : []),
  ].join(', ');
}

/** The stages of a group, a line a member, with an arrow between them. */
export function pictureOf({ spec, status }: Pick<Group, 'spec' | 'status'>, style: Style): string[] {
  const orders = [...new Set(status.members.map(({ order }) => order))];
  const nameWidth = Math.max(0, ...status.members.map(({ vm }) => displayWidth(vm)));
  const stateWidth = Math.max(0, ...status.members.map(({ state }) => state.length));
  return orders.flatMap((order, stage) => {
    const label = `stage ${stage + 1}`;
    const lines = status.members
      .filter((member) => member.order === order)
      .map(({ vm, state }, index) => {
        const member = spec.members.find((one) => one.vm === vm);
        const before = index === 0 ? style.bold(label) : ' '.repeat(label.length);
        const name = padToWidth(escapeControls(vm), nameWidth);
        const shown = colorState(padToWidth(state, stateWidth), state, style);
        return `${before}  ${name}  ${shown}  ${style.dim(escapeControls(member ? notesOf(member) : ''))}`.trimEnd();
      });
    return stage === 0 ? lines : [`  ${style.dim('│')}`, `  ${style.dim('▼')}`, ...lines];
  });
}
