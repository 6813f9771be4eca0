// The disks of a forked VM: frozen in the moment in which its memory is, for the copies to go on from.
//
//   layers made and opened ──► (guest stands still) frozen ──► written down, held ──► copies on top of them
//
// The layers that the guest goes on with are there before it is stopped, so that it stands still for one command only.
import { type Vm } from '../../api/vm.ts';
import { type Guest } from '../../drivers/driver.ts';
import { type Layer, type LayerHolder } from '../volume/layer.ts';
import { type VolumeService } from '../volume/volume-service.ts';

export interface ForkDisks {
  /** Freezes them. To be called while the guest stands still; when it throws, they are as they were. */
  freeze: () => Promise<void>;
  /** Makes the disks of a copy, when they are frozen. */
  provide: (copy: Pick<Vm, 'id' | 'name' | 'project'>) => Promise<Vm['status']['disks']>;
  /** The frozen layers by the names of the disks, when they are frozen. */
  layers: () => Promise<Record<string, string>>;
  /** Nothing is frozen any more, and what was begun is given up. Does nothing when it was. */
  abandon: () => Promise<void>;
}

/** `key`: names this attempt, as memory that is frozen again needs disks that are. */
export function forkDisks(
  volumes: VolumeService,
  original: Vm,
  guest: Guest,
  key: string,
  holder: LayerHolder,
): ForkDisks {
  const disks = original.status.disks.flatMap((disk) => {
    const volume = disk.volume === null ? null : volumes.get(disk.volume);
    return volume ? [{ disk, volume }] : [];
  });
  const opened = Promise.withResolvers<void>();
  const stopped = Promise.withResolvers<void>();
  const switched = Promise.withResolvers<void>();
  for (const { promise } of [opened, stopped, switched]) promise.catch(() => {});
  const frozen: Promise<ReadonlyMap<string, Layer>> =
    disks.length === 0
      ? Promise.resolve(new Map<string, Layer>())
      : volumes.layers.freeze({
          key,
          targets: disks.map(({ disk, volume }) => ({ disk: disk.name, volume })),
          onSwitch: async (fresh) => {
            await guest.snapshots.open(fresh);
            opened.resolve();
            await stopped.promise;
            await guest.snapshots.freeze(fresh);
            switched.resolve();
          },
        });
  const held = frozen.then(async (layers) => {
    await volumes.layers.hold(
      [...layers.values()].map(({ id }) => id),
      holder,
    );
    return layers;
  });
  held.catch((error: unknown) => {
    opened.reject(error);
    switched.reject(error);
  });
  return {
    freeze: async () => {
      if (disks.length === 0) return;
      await opened.promise;
      stopped.resolve();
      await switched.promise;
    },
    provide: async (copy) => {
      const layers = await held;
      const own: Vm['status']['disks'] = [];
      for (const { disk, volume } of disks) {
        const layer = layers.get(volume.id)!;
        const made = await volumes.provideOn(copy, { name: disk.name }, layer.id);
        own.push({ ...disk, volume: made.id, image: made.status.imageId });
      }
      return own;
    },
    layers: async () => {
      const frozenLayers = await held;
      return Object.fromEntries(disks.map(({ disk, volume }) => [disk.name, frozenLayers.get(volume.id)!.id]));
    },
    abandon: async () => {
      stopped.reject(new Error('the fork was given up'));
      await held.catch(() => {});
    },
  };
}
