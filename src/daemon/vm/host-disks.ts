// What the node knows of the disks that a guest tells of: how large they are, and how much room they take here.
import { type GuestInfo, type GuestReport } from '../../api/vm-guest-info.ts';
import { type Vm } from '../../api/vm.ts';
import { type VolumeService } from '../volume/volume-service.ts';

export async function withHostDisks(report: GuestReport, vm: Vm, volumes: VolumeService): Promise<GuestInfo> {
  const disks = await Promise.all(
    report.disks.map(async (told) => {
      const own = vm.status.disks.find(({ name }) => name === told.disk);
      const volume = own?.volume ? volumes.get(own.volume) : null;
      const status = volume && (await volumes.refresh(volume)).status;
      return {
        ...told,
        sizeMib: status?.virtualSizeMib ?? own?.sizeMib ?? null,
        hostBytes: status?.allocatedBytes ?? null,
      };
    }),
  );
  return { ...report, disks };
}
