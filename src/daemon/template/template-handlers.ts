// Routes of templates.
import { type NounHandlers } from '../../api/contract.ts';
import { template as templateSchema, type Template } from '../../api/template.ts';
import { type VmSpecInput } from '../../api/vm-spec.ts';
import { type ByteSource, type RequestContext } from '../http/context.ts';
import { lister } from '../store/list-page.ts';
import { toTask } from '../task/task.ts';
import { type Templates } from './open-templates.ts';

export function templateHandlers({
  service: templates,
  records,
  warm,
}: Templates): NounHandlers<'template', RequestContext, ByteSource> {
  const { collection } = records;
  const list = lister(templateSchema, { all: () => collection.all(), revision: () => collection.revision });
  const find = ({ params, query }: { params: { template: string }; query: { project: string } }): Template =>
    templates.require(query.project, params.template);
  return {
    list: async ({ query }) => list(query),
    create: async ({ body }, { caller }) => toTask(await templates.create(body, caller.name)),
    get: async (request) => find(request),
    update: (request) => templates.update(find(request), request.body),
    addVersion: async (request, { caller }) =>
      toTask(await templates.addVersion(find(request), request.body, caller.name)),
    prepare: async ({ body }, { caller, sent }) =>
      toTask(await warm.prepare({ ...body, spec: (sent as { spec?: VmSpecInput }).spec }, caller.name)),
    deploy: async (request, { caller }) => toTask(await templates.deploy(find(request), request.body, caller.name)),
    delete: async (request, { caller }) =>
      toTask(await templates.delete(find(request), request.query.version ?? null, caller.name)),
  };
}
