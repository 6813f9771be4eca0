// What a VM has from profiles and its instance type: which field, from where, and what of it has changed there since.
import * as z from 'zod';

export const sourceKind = z.enum(['profile', 'instance-type']);
export type SourceKind = z.output<typeof sourceKind>;

/** A field that a profile or the instance type of a VM sets. */
export const inheritedField = z
  .strictObject({
    field: z.string().max(200).describe('Of the spec: cpu.count'),
    kind: sourceKind,
    name: z.string().max(63).describe('Profile or instance type that sets it, as the spec names it'),
    value: z.unknown().describe('What it gave when it was taken over'),
    isOverridden: z.boolean().describe('The VM has a value of its own, which counts'),
  })
  .meta({ id: 'InheritedField' });
export type InheritedField = z.output<typeof inheritedField>;

const shownValue = z.union([z.string(), z.number(), z.boolean()]).nullable();

/** A change of a profile or instance type that a VM of it has not taken. */
export const profileChange = z
  .object({
    field: z.string().describe('Of the spec: cpu.count'),
    current: shownValue.describe('What the VM has; null: nothing'),
    wanted: shownValue.describe('What it would get; null: nothing'),
    from: z
      .object({ kind: sourceKind, name: z.string() })
      .nullable()
      .describe('What gives it now; null: nothing does any more, so the field would get its default'),
  })
  .meta({ id: 'ProfileChange' });
export type ProfileChange = z.output<typeof profileChange>;
