// Routes of images.
import { type NounHandlers } from '../../api/contract.ts';
import { image, type Image } from '../../api/image.ts';
import { type ByteSource, type RequestContext } from '../http/context.ts';
import { type Collection } from '../store/collection.ts';
import { lister } from '../store/list-page.ts';
import { toTask } from '../task/task.ts';
import { type ImageService } from './image-service.ts';

export function imageHandlers(
  images: ImageService,
  collection: Collection<Image>,
): NounHandlers<'image', RequestContext, ByteSource> {
  const list = lister(image, { all: () => collection.all(), revision: () => collection.revision });
  const find = ({ params, query }: { params: { image: string }; query: { project: string } }): Image =>
    images.require(query.project, params.image);
  return {
    list: async ({ query }) => list(query),
    create: async ({ body }, { caller }) => toTask(await images.create(body, caller.name)),
    get: async (request) => find(request),
    update: (request) => images.update(find(request), request.body),
    upload: async (request, { caller }) => toTask(await images.upload(find(request), request.body, caller.name)),
    delete: async (request, { caller }) => toTask(await images.delete(find(request), caller.name)),
  };
}
