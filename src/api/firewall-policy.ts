// What counts for the NICs of a network or a project where no rule of a security group decides.
import * as z from 'zod';
import { objectReference } from './object.ts';
import { maxNicGroups, ruleAction } from './security-group.ts';

/** What is taken from, and given to, every NIC of a network or a project. */
export const firewallPolicy = z
  .strictObject({
    ingress: ruleAction
      .optional()
      .describe(
        'What becomes of connections to a NIC that no rule decides. Without it, the project’s; without that, deny for a NIC that is in a group, else allow',
      ),
    egress: ruleAction
      .optional()
      .describe(
        'The same for connections from a NIC. Without it, the project’s; without that, deny for a NIC with a rule that allows egress, else allow',
      ),
    securityGroups: z
      .array(objectReference)
      .max(maxNicGroups)
      .default([])
      .describe('Groups that every NIC is in, beside those that it names itself'),
    isHostAllowed: z
      .boolean()
      .optional()
      .describe(
        'Whether programs of the host itself always reach the guests (lodge vm ssh, readiness checks), whatever the rules say. Without it, the project’s; without that, true',
      ),
  })
  .meta({ id: 'FirewallPolicy' });
export type FirewallPolicy = z.output<typeof firewallPolicy>;
