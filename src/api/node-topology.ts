// How the processors and the memory of a node are arranged, as data for a picture: sockets, dies, cores, threads, caches,
// NUMA nodes with huge pages.
import * as z from 'zod';

const mhz = (what: string): z.ZodNullable<z.ZodNumber> => z.number().nullable().describe(`${what}, MHz; null: unknown`);

const hugePagePool = z
  .object({
    sizeMib: z.number().describe('Size of a page, MiB'),
    total: z.int().describe('Pages in the pool'),
    free: z.int().describe('Pages that nobody uses'),
  })
  .meta({ id: 'HugePagePool' });

export const nodeTopology = z
  .object({
    sockets: z.int().describe('Sockets with a processor that is online'),
    cores: z.int().describe('Cores with a processor that is online'),
    cpus: z
      .array(
        z.object({
          id: z.int().describe('The kernel’s number, as cpu.pinning takes it'),
          isOnline: z.boolean(),
          socket: z.int().nullable().describe('Null while it is offline, like die, core and numaNode'),
          die: z.int().nullable(),
          core: z.int().nullable().describe('Unique in its die only'),
          numaNode: z.int().nullable(),
          siblings: z.array(z.int()).describe('All threads of its core, itself too'),
          kind: z
            .enum(['performance', 'efficiency'])
            .nullable()
            .describe('What its core is built for; null: all cores are alike'),
          minMhz: mhz('Lowest frequency'),
          baseMhz: mhz('Frequency that it can hold'),
          maxMhz: mhz('Highest frequency'),
          nowMhz: mhz('Frequency at this moment'),
          governor: z.string().nullable().describe('Who chooses the frequency: performance, powersave, schedutil'),
          isIsolated: z
            .boolean()
            .describe('Kept out of the scheduler (isolcpus): only what is pinned to it runs there'),
          isTickless: z.boolean().describe('Without timer tick while one task runs on it (nohz_full)'),
        }),
      )
      .describe('Logical processors: threads of cores'),
    caches: z
      .array(
        z.object({
          level: z.int(),
          type: z.enum(['data', 'instruction', 'unified']),
          sizeKib: z.number(),
          cpus: z.array(z.int()).describe('Processors that share it'),
        }),
      )
      .describe('By level, then by their first processor'),
    numaNodes: z
      .array(
        z.object({
          id: z.int(),
          totalMib: z.number().describe('0: it has no memory'),
          freeMib: z.number(),
          cpus: z.array(z.int()).describe('Those that are online; empty: it has memory only'),
          distances: z
            .array(z.int())
            .describe('Relative cost of the memory of each NUMA node, in their order; 10 is its own'),
          hugePages: z.array(hugePagePool).describe('Pools of huge pages, smallest first'),
        }),
      )
      .describe('One with everything where the machine has no NUMA'),
  })
  .meta({ id: 'NodeTopology' });
export type NodeTopology = z.output<typeof nodeTopology>;
