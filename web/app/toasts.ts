// Toasts: what happened that the user did not start on this page. What was started here is shown where it was.
import { loadPart } from '../data/part.ts';
import { type Event } from '../../src/api/event.ts';
import { type Task } from '../../src/api/task.ts';
import { onChange } from '../data/live.ts';
import { isOwnTask } from '../data/outcome.ts';
import { say } from '../i18n/language.ts';
import { taskTitle } from '../task/task-words.ts';

/** Begins to show toasts; the function it gives ends that. */
export function startToasts(): () => void {
  const ended = new Set<string>();
  return onChange(({ kind, type, object }) => {
    if (object === null || type === 'deleted') return;
    if (kind === 'event' && type === 'created') {
      const { severity, message, subject } = object as Event;
      if (severity === 'info') return;
      show(severity === 'error' ? 'red' : 'yellow', subject.name, message);
    }
    if (kind === 'task') {
      const task = object as Task;
      if (isOwnTask(task.id) || task.parentId !== null || task.state !== 'failed' || ended.has(task.id)) return;
      ended.add(task.id);
      show('red', say('toast.task-failed', { what: taskTitle(task) }), task.error?.message ?? '');
    }
  });
}

/** What shows them is loaded with the first. */
function show(color: string, title: string, message: string): void {
  void loadPart(() => import('./toast-view.tsx')).then(({ showToast }) =>
    showToast({ color, title: title.slice(0, 200), message: message.slice(0, 500) }),
  );
}
