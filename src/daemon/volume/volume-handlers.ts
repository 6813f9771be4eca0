// Routes of volumes.
import { type NounHandlers } from '../../api/contract.ts';
import { volume, type Volume } from '../../api/volume.ts';
import { type ByteSource, type RequestContext } from '../http/context.ts';
import { type Collection } from '../store/collection.ts';
import { lister } from '../store/list-page.ts';
import { toTask } from '../task/task.ts';
import { type VolumeService } from './volume-service.ts';

export function volumeHandlers(
  volumes: VolumeService,
  collection: Collection<Volume>,
): NounHandlers<'volume', RequestContext, ByteSource> {
  const list = lister(volume, { all: () => collection.all(), revision: () => collection.revision });
  const find = ({ params, query }: { params: { volume: string }; query: { project: string } }): Volume =>
    volumes.require(query.project, params.volume);
  return {
    list: async ({ query }) => list(query),
    create: async ({ body }, { caller }) => toTask(await volumes.create(body, caller.name)),
    get: (request) => volumes.refresh(find(request)),
    update: (request) => volumes.update(find(request), request.body),
    delete: async (request, { caller }) => toTask(await volumes.delete(find(request), caller.name)),
  };
}
