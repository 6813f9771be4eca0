// Tasks as they are read for the drawer and its button: the newest, kept as they are by the event stream.
import { useInfiniteQuery } from '@tanstack/react-query';
import { finalTaskStates, type Task } from '../../src/api/task.ts';
import { client, useMay } from '../data/client.ts';

/** The newest tasks, and those of them that have not ended. Parts of other tasks are left out. */
export function useActiveTasks(): { recent: Task[]; active: Task[] } {
  const mayRead = useMay('task.read');
  const { data } = useInfiniteQuery({
    queryKey: ['task', 'list', 'recent'],
    queryFn: () => client.task.list({ query: { limit: 50, sort: '-createdAt' } }),
    initialPageParam: '',
    getNextPageParam: () => null,
    enabled: mayRead,
  });
  const recent = (data?.pages[0]?.items ?? []).filter((task) => task.parentId === null);
  return { recent, active: recent.filter((task) => !finalTaskStates.has(task.state)) };
}
