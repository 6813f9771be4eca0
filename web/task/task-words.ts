// Tasks in words.
import { type Task } from '../../src/api/task.ts';
import { sayOr } from '../i18n/language.ts';

/** What a task does, and to what: "Start web1". */
export function taskTitle(task: Task): string {
  return `${sayOr(`task.${task.type}`, task.type)} · ${task.target.name}`;
}

/** The page of what a task or an event is about; null where there is none. */
export function subjectHref(subject: { kind: string; id: string; name: string; project: string }): string | null {
  const noun = nounPaths[subject.kind];
  if (noun === undefined) return null;
  return `${noun}/${subject.project === 'default' ? subject.name : subject.id}`;
}

/** Where the objects of each kind are. */
export const nounPaths: Readonly<Record<string, string>> = {
  vm: '/vms',
  image: '/images',
  volume: '/volumes',
  network: '/networks',
  template: '/templates',
  group: '/groups',
  profile: '/profiles',
  'instance-type': '/instance-types',
  node: '/nodes',
};
