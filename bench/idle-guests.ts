// Many real guests that cost nothing while they are there: no disk, no network and no system. The firmware finds nothing to
// boot, and pausing keeps the processor free.
import { type LodgeClient } from '../src/client/client.ts';
import { waitForTask } from '../src/client/follow.ts';

/** Makes them: vm-0, vm-1 and so on. */
export async function makeIdleGuests(client: LodgeClient, count: number): Promise<void> {
  for (let index = 0; index < count; index++) {
    const task = await client.vm.create({
      query: { start: true },
      body: { name: `vm-${index}`, spec: { memoryMib: 16, nics: [], display: 'none', hasAgentChannel: false } },
    });
    const ended = await waitForTask(client, task.id);
    if (ended.state !== 'succeeded') throw new Error(`vm-${index}: ${ended.error?.message}`);
    await client.vm.pause({ params: { vm: `vm-${index}` } });
  }
}

/** Deletes them, and waits until they are gone. */
export async function deleteIdleGuests(client: LodgeClient, count: number): Promise<void> {
  for (let index = 0; index < count; index++)
    await client.vm.delete({ params: { vm: `vm-${index}` }, query: { force: true } });
  for (let left = count; left > 0;) left = (await client.vm.list({ query: { limit: 1 } })).total;
}
