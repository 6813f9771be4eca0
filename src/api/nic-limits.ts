// How much may go through NICs and networks: rates of a NIC in both directions, ceilings that the NICs of a network share, and
// who has what of them.
import * as z from 'zod';

/** 8 kbit/s to 8 Tbit/s. */
export const bytesPerSecond = z.int().min(1000).max(1_000_000_000_000);

export const nicRate = z
  .strictObject({
    bytesPerSecond: bytesPerSecond.optional().describe('Average, bytes a second'),
    burstBytes: z
      .int()
      .min(2000)
      .max(1_000_000_000)
      .optional()
      .describe('What may go at once after a pause, bytes. Without it, what 20 ms carry, at least 64 KiB'),
    peakBytesPerSecond: bytesPerSecond.optional().describe('Rate of a burst. Without it, as fast as it can'),
    packetsPerSecond: z.int().min(10).max(100_000_000).optional().describe('Packets above it are dropped'),
    guaranteedBytesPerSecond: bytesPerSecond
      .optional()
      .describe('What it has of its network’s ceiling in any case (spec.limits of the network)'),
  })
  .meta({ id: 'NicRate' });
export type NicRate = z.output<typeof nicRate>;

export const nicLimits = z
  .strictObject({
    inbound: nicRate.optional().describe('To the guest'),
    outbound: nicRate.optional().describe('From the guest'),
    priority: z
      .enum(['high', 'normal', 'low'])
      .optional()
      .describe('Who gets first what is left of the network’s ceiling. Without it, normal'),
  })
  .describe('Rates of a NIC, as its guest sees them. Changed while it runs')
  .meta({ id: 'NicLimits' });
export type NicLimits = z.output<typeof nicLimits>;

export const networkLimits = z
  .strictObject({
    inboundBytesPerSecond: bytesPerSecond.optional().describe('To all its guests together, from beyond the network'),
    outboundBytesPerSecond: bytesPerSecond.optional().describe('From all its guests together, to beyond the network'),
  })
  .describe('Ceilings that all NICs share, of modes nat, routed and isolated. What guests send each other is not in it')
  .meta({ id: 'NetworkLimits' });

/** What of limits is in effect. */
export const limitStatus = z.object({
  state: z.enum(['active', 'partial', 'failed']).describe('partial: something else is done in place of a part of it'),
  problems: z.array(z.string()).describe('What this kernel lacks, and what is done instead'),
});

export const nicLimitStatus = limitStatus.extend({ mac: z.string() }).meta({ id: 'NicLimitStatus' });
export type NicLimitStatus = z.output<typeof nicLimitStatus>;
export const networkLimitStatus = limitStatus.meta({ id: 'NetworkLimitStatus' });
export type NetworkLimitStatus = z.output<typeof networkLimitStatus>;
