// A VM as it is read and changed by its pages.
import { useQuery } from '@tanstack/react-query';
import { LodgeError } from '../../src/api/errors.ts';
import { type Vm } from '../../src/api/vm.ts';
import { type VmSpec } from '../../src/api/vm-spec.ts';
import { client } from '../data/client.ts';
import { queryClient } from '../data/queries.ts';

export function useVm(ref: string) {
  return useQuery({ queryKey: ['vm', 'one', ref], queryFn: () => client.vm.get({ params: { vm: ref } }) });
}

/**
 * Changes a VM's spec. Where somebody else has changed it meanwhile, the change is made once more on what it is now: it
 * says what is to be other, not what all of it is to be.
 */
export async function changeSpec(vm: Vm, change: (spec: VmSpec) => VmSpec): Promise<Vm> {
  const write = async (current: Vm): Promise<Vm> => {
    const { inherited: _written, ...spec } = change(current.spec);
    return client.vm.update({ params: { vm: vm.id }, body: { revision: current.revision, spec } });
  };
  const changed = await write(vm).catch(async (failure: unknown) => {
    if (!(failure instanceof LodgeError) || failure.code !== 'revision_conflict') throw failure;
    return write(await client.vm.get({ params: { vm: vm.id } }));
  });
  queryClient.setQueriesData<Vm>({ queryKey: ['vm', 'one'] }, (shown) => (shown?.id === vm.id ? changed : shown));
  return changed;
}
