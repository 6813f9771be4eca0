// The long operations on this node.
import { type Driver } from '../../drivers/driver.ts';
import { type Store } from '../store/store.ts';
import { type TaskType } from '../task/task.ts';
import { measuredNode, measureTask, NodeMeasurements, type MeasureTask } from './node-measurements.ts';
import { type NodeService } from './node-service.ts';
import { stopGuestsTask, type StopGuestsParts } from './stop-guests.ts';

export interface NodeTasks {
  stopGuests: TaskType<Record<never, never>>;
  measure: MeasureTask;
}

export function openNodeTasks(
  store: Store,
  driver: Driver,
  nodes: NodeService,
  stopping: StopGuestsParts,
): NodeTasks & { measurements: NodeMeasurements } {
  const measurements = new NodeMeasurements(store);
  return {
    stopGuests: stopGuestsTask(stopping),
    measure: measureTask({ driver, measurements, node: () => measuredNode(nodes.self) }),
    measurements,
  };
}
