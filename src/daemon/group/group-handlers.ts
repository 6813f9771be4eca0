// Routes of groups.
import { type NounHandlers } from '../../api/contract.ts';
import { group, type Group } from '../../api/group.ts';
import { type ByteSource, type RequestContext } from '../http/context.ts';
import { type Collection } from '../store/collection.ts';
import { lister } from '../store/list-page.ts';
import { toTask } from '../task/task.ts';
import { type GroupService } from './group-service.ts';

export function groupHandlers(
  groups: GroupService,
  collection: Collection<Group>,
): NounHandlers<'group', RequestContext, ByteSource> {
  const list = lister(group, { all: () => groups.all(), revision: () => collection.revision });
  const find = ({ params, query }: { params: { group: string }; query: { project: string } }): Group =>
    groups.require(query.project, params.group);
  return {
    list: async ({ query }) => list(query),
    create: ({ body }, { caller }) => groups.create(body, caller),
    get: async (request) => find(request),
    update: (request, { caller }) => groups.update(find(request), request.body, caller),
    delete: (request) => groups.delete(find(request)),
    start: async (request, { caller }) => toTask(await groups.start(find(request), caller.name)),
    stop: async (request, { caller }) => toTask(await groups.stop(find(request), request.body.timeoutS, caller.name)),
    restart: async (request, { caller }) =>
      toTask(await groups.restart(find(request), request.body.timeoutS, caller.name)),
  };
}
