// Routes of nodes.
import { type NounHandlers } from '../../api/contract.ts';
import { node, type Node } from '../../api/node.ts';
import { readHardware } from '../../host/hardware/hardware.ts';
import { thisMachine } from '../../host/hardware/source.ts';
import { readTopology } from '../../host/topology.ts';
import { type ByteSource, type RequestContext } from '../http/context.ts';
import { type Collection } from '../store/collection.ts';
import { type MetricsHistory } from '../metrics/metrics-history.ts';
import { lister } from '../store/list-page.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { toTask } from '../task/task.ts';
import { type openNodeTasks } from './node-tasks.ts';
import { type NodeService } from './node-service.ts';
import { shownTopology } from './shown-topology.ts';

export function nodeHandlers(
  nodes: NodeService,
  collection: Collection<Node>,
  parts: { engine: TaskEngine; tasks: ReturnType<typeof openNodeTasks>; history: MetricsHistory },
): NounHandlers<'node', RequestContext, ByteSource> {
  const list = lister(node, { all: () => collection.all(), revision: () => collection.revision });
  const shown = async (object: Node): Promise<Node> => (object.id === nodes.self.id ? nodes.current() : object);
  return {
    list: async ({ query }) => {
      const page = list(query);
      return { ...page, items: await Promise.all(page.items.map(shown)) };
    },
    get: ({ params }) => shown(nodes.require(params.node)),
    update: async ({ params, body }) => shown(await nodes.update(nodes.require(params.node), body)),
    hardware: async ({ params }) => {
      nodes.require(params.node);
      return readHardware();
    },
    topology: async ({ params }) => {
      nodes.require(params.node);
      return shownTopology(readTopology(thisMachine()));
    },
    metrics: async ({ params, query }) => parts.history.ofNode(nodes.require(params.node).id, query, Date.now() / 1000),
    check: async ({ params }) => {
      nodes.require(params.node);
      return nodes.check();
    },
    probe: async ({ params }) => {
      nodes.require(params.node);
      await nodes.inspect(true);
      return nodes.current();
    },
    measure: async ({ params }, { caller }) => {
      const { id, name, project } = nodes.require(params.node);
      const target = { kind: 'node' as const, id, name, project };
      return toTask(await parts.engine.submit(parts.tasks.measure, { target, input: {}, requestedBy: caller.name }));
    },
    measurements: async ({ params }) => ({ items: await parts.tasks.measurements.list(nodes.require(params.node).id) }),
    stopGuests: async ({ params }, { caller }) => {
      const target = nodes.require(params.node);
      return toTask(
        await parts.engine.submit(parts.tasks.stopGuests, {
          target: { kind: 'node', id: target.id, name: target.name, project: target.project },
          input: {},
          requestedBy: caller.name,
        }),
      );
    },
  };
}
