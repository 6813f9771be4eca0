// The states of a VM and what may be done in each: one table, used by daemon, command line and console alike.
//
//   creating ─▶ stopped ─▶ starting ─▶ running ◀─▶ paused
//                 ▲  ▲        ▲         │  │ │
//                 │  └─ stopping ◀──────┘  │ └─▶ crashed (the guest panicked; QEMU holds it)
//                 │           ▲            ▼
//                 │           └─────── suspending ─▶ suspended ─▶ starting
//                 └── deleting (ends in nothing)
//
// A VM that is made as a running copy of another goes from creating to running.
import * as z from 'zod';

export const vmState = z
  .enum([
    'creating',
    'stopped',
    'starting',
    'running',
    'paused',
    'stopping',
    'suspending',
    'suspended',
    'crashed',
    'deleting',
  ])
  .meta({ id: 'VmState' });
export type VmState = z.output<typeof vmState>;

/** What can be done to a VM. */
export type VmAction =
  | 'start'
  | 'stop'
  | 'forceOff'
  | 'restart'
  | 'reset'
  | 'pause'
  | 'resume'
  | 'suspend'
  | 'delete'
  | 'console'
  | 'guest'
  | 'measure'
  | 'update'
  | 'fork'
  | 'clone';

/** In which states each action is allowed, what the VM is meanwhile, and what it ends in. */
export const vmActions: Readonly<
  Record<VmAction, { from: readonly VmState[]; during: VmState | null; to: VmState | null }>
> = {
  start: { from: ['stopped', 'suspended'], during: 'starting', to: 'running' },
  stop: { from: ['running', 'paused', 'crashed'], during: 'stopping', to: 'stopped' },
  forceOff: {
    from: ['starting', 'running', 'paused', 'stopping', 'suspending', 'suspended', 'crashed'],
    during: 'stopping',
    to: 'stopped',
  },
  restart: { from: ['running', 'paused', 'crashed'], during: 'stopping', to: 'running' },
  reset: { from: ['running', 'paused', 'crashed'], during: null, to: 'running' },
  pause: { from: ['running'], during: null, to: 'paused' },
  resume: { from: ['paused'], during: null, to: 'running' },
  suspend: { from: ['running', 'paused'], during: 'suspending', to: 'suspended' },
  // What was left of a creation or deletion that failed can be deleted too; while its task runs, the VM is busy.
  delete: { from: ['creating', 'stopped', 'suspended', 'deleting'], during: 'deleting', to: null },
  console: { from: ['starting', 'running', 'paused', 'stopping', 'suspending', 'crashed'], during: null, to: null },
  guest: { from: ['running'], during: null, to: null },
  measure: { from: ['running', 'paused'], during: null, to: null },
  fork: { from: ['running'], during: null, to: null },
  clone: { from: ['stopped', 'running', 'paused', 'suspended', 'crashed'], during: null, to: null },
  update: {
    from: ['stopped', 'starting', 'running', 'paused', 'stopping', 'suspending', 'suspended', 'crashed'],
    during: null,
    to: null,
  },
};

/** States a VM may pass into from each state, by an action or by itself. */
export const vmTransitions: Readonly<Record<VmState, readonly VmState[]>> = {
  creating: ['stopped', 'running', 'deleting'],
  stopped: ['starting', 'suspended', 'deleting'],
  starting: ['running', 'paused', 'stopping', 'stopped', 'suspended', 'crashed'],
  running: ['paused', 'stopping', 'suspending', 'stopped', 'crashed', 'starting'],
  paused: ['running', 'stopping', 'suspending', 'stopped', 'crashed'],
  stopping: ['stopped', 'running', 'paused', 'crashed', 'starting'],
  suspending: ['suspended', 'running', 'paused', 'stopping', 'stopped'],
  suspended: ['starting', 'stopping', 'stopped', 'deleting'],
  crashed: ['running', 'stopping', 'stopped', 'starting'],
  deleting: ['stopped'],
};

/** States in which a hypervisor process exists or is coming or going. */
export const liveVmStates: ReadonlySet<VmState> = new Set<VmState>([
  'starting',
  'running',
  'paused',
  'stopping',
  'suspending',
  'crashed',
]);

/** Whether an action is allowed in a state. */
export function canVm(action: VmAction, state: VmState): boolean {
  return vmActions[action].from.includes(state);
}
