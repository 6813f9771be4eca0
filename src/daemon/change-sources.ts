// What the stream of changes is made of: every noun's objects, each as the caller may see it.
import { type EventService } from './event/event-service.ts';
import { objectSource, type ChangeSource } from './event/change-stream.ts';
import { type Firewall } from './firewall/open-firewall.ts';
import { type GroupService } from './group/group-service.ts';
import { type Caller } from './http/context.ts';
import { type Objects } from './objects.ts';
import { profileFor } from './profile/source-handlers.ts';
import { type SnapshotService } from './snapshot/snapshot-service.ts';
import { toTask } from './task/task.ts';
import { type TaskEngine } from './task/task-engine.ts';
import { vmFor } from './vm/first-boot-secrets.ts';

export interface ChangeSourceParts {
  objects: Objects;
  snapshots: SnapshotService;
  firewall: Firewall;
  groups: GroupService;
  events: EventService;
  engine: TaskEngine;
}

/** The sources of a caller's stream. */
export function changeSources({ objects, snapshots, firewall, groups, events, engine }: ChangeSourceParts) {
  const { sources } = objects;
  return (caller: Caller): ChangeSource[] => [
    objectSource('node', objects.nodeObjects),
    objectSource('vm', objects.vmObjects, (vm) => vmFor(caller, vm)),
    objectSource('image', objects.imageObjects),
    objectSource('volume', objects.volumeObjects),
    {
      kind: 'snapshot',
      prefixes: ['/lodge/snapshots/', '/lodge/snapshots-status/'],
      read: (id) => snapshots.read(id),
    },
    objectSource('network', objects.networkObjects),
    ...firewall.changeSources(),
    objectSource('template', objects.templateObjects),
    objectSource('group', objects.groupObjects, (group) => groups.view(group)),
    objectSource('profile', sources.profiles, (profile) => profileFor(caller, profile)),
    objectSource('instance-type', sources.instanceTypes),
    { kind: 'event', prefixes: ['/lodge/events/'], read: (id) => events.get(id) },
    {
      kind: 'task',
      prefixes: ['/lodge/tasks/'],
      read: (id) => {
        const record = engine.get(id);
        return record && toTask(record);
      },
    },
  ];
}
