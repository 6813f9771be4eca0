// The order of a group, as pure functions: which members make a stage, which stage comes after which, and what the states
// of the VMs come to.
import { type GroupMember, type GroupState } from '../../api/group.ts';
import { liveVmStates, type VmState } from '../../api/vm-state.ts';

/** The members with the place that each has: its own, or the one after the member before it in the list. */
export function orderMembers<Member extends Pick<GroupMember, 'order'>>(
  members: readonly Member[],
): (Member & { order: number })[] {
  let before = 0;
  return members.map((member) => {
    before = member.order ?? before + 1;
    return { ...member, order: before };
  });
}

/** Members with the same place, those with the lowest first; within a stage as in the list. */
export function stagesOf<Member extends { order: number }>(members: readonly Member[]): Member[][] {
  const stages = new Map<number, Member[]>();
  for (const member of members) {
    const stage = stages.get(member.order);
    if (stage) stage.push(member);
    else stages.set(member.order, [member]);
  }
  return [...stages.entries()].toSorted(([left], [right]) => left - right).map(([, stage]) => stage);
}

/** What the states of the members come to, in a word and a sentence. */
export function groupStateOf(states: readonly VmState[]): { state: GroupState; reason: string } {
  const running = states.filter((state) => state === 'running').length;
  const isAnyUp = states.some((state) => liveVmStates.has(state));
  if (states.length === 0) return { state: 'stopped', reason: 'It has no members.' };
  const reason = `${running} of ${states.length} members run.`;
  if (running === states.length) return { state: 'running', reason };
  return { state: isAnyUp ? 'partial' : 'stopped', reason };
}
