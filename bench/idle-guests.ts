// Many real guests that cost nothing while they are there: no disk, no network and no system. The firmware finds nothing to
// boot, and pausing keeps the processor free.
import { type LodgeClient } from '../src/client/client.ts';
import { waitForTask } from '../src/client/follow.ts';

/** Made at the same time: as many as a small machine has room for. */
const atOnce = 4;

/** Makes them: vm-0, vm-1 and so on. */
export async function makeIdleGuests(client: LodgeClient, count: number): Promise<void> {
  let next = 0;
  const make = async (): Promise<void> => {
    while (next < count) {
      const name = `vm-${next++}`;
      const task = await client.vm.create({
        query: { start: true },
        body: { name, spec: { memoryMib: 16, nics: [], display: 'none', hasAgentChannel: false } },
      });
      const ended = await waitForTask(client, task.id);
      if (ended.state !== 'succeeded') throw new Error(`${name}: ${ended.error?.message}`);
      await client.vm.pause({ params: { vm: name } });
    }
  };
  await Promise.all(Array.from({ length: atOnce }, make));
}

/** Deletes them, and waits until they are gone. */
export async function deleteIdleGuests(client: LodgeClient, count: number): Promise<void> {
  for (let index = 0; index < count; index++)
    await client.vm.delete({ params: { vm: `vm-${index}` }, query: { force: true } });
  for (let left = count; left > 0;) left = (await client.vm.list({ query: { limit: 1 } })).total;
}
