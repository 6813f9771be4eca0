// Routes of tasks.
import { type NounHandlers } from '../../api/contract.ts';
import { task } from '../../api/task.ts';
import { type ByteSource, type RequestContext } from '../http/context.ts';
import { lister } from '../store/list-page.ts';
import { type TaskEngine } from './task-engine.ts';
import { toTask } from './task.ts';

export function taskHandlers(engine: TaskEngine): NounHandlers<'task', RequestContext, ByteSource> {
  const list = lister(
    task,
    { all: () => Array.from(engine.all(), toTask), revision: () => engine.revision },
    { sort: '-id' },
  );
  return {
    list: async ({ query }) => list(query),
    get: async ({ params }) => toTask(engine.require(params.task)),
    cancel: async ({ params }) => toTask(await engine.cancel(params.task)),
  };
}
