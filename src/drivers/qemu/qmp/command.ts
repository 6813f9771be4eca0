// What the command tables are made of: the description of one QMP command or event.
import { object, type Members, type ObjectOf, type Shape, type Typed } from './shape.ts';

/** Nothing of interest: most commands answer with an empty object. */
export type Empty = Record<string, never>;

export interface CommandDescriptor<Arguments = unknown, Returns = unknown> {
  readonly arguments: Typed<Arguments>;
  readonly returns: Typed<Returns>;
  /** It may be sent out of band, that is, overtake the commands that wait in QEMU. */
  readonly allowsOutOfBand: boolean;
  /** The first QEMU release that has it, where that is newer than the oldest one Lodge supports (8.2). */
  readonly since: string | null;
}

export interface CommandFlags {
  allowsOutOfBand?: boolean;
  since?: string;
}

/** A command with these arguments; without `returns`, its answer carries nothing. */
export function command<const M extends Members, R = Empty>(
  members: M,
  returns?: Typed<R>,
  flags: CommandFlags = {},
): CommandDescriptor<ObjectOf<M>, R> {
  return commandOf(object(members), returns, flags);
}

/** A command whose arguments are not a plain object: a union, or an object that takes more than is described. */
export function commandOf<A, R = Empty>(
  args: Typed<A>,
  returns?: Typed<R>,
  flags: CommandFlags = {},
): CommandDescriptor<A, R> {
  // The type states the default of R: without `returns` the answer is the empty object.
  const shape: Typed<R> = returns ?? (object({}) as Shape);
  const { allowsOutOfBand = false, since = null } = flags;
  return { arguments: args, returns: shape, allowsOutOfBand, since };
}

export interface EventDescriptor<Data = unknown> {
  readonly data: Typed<Data>;
  readonly since: string | null;
}

export function event<const M extends Members>(members: M, since: string | null = null): EventDescriptor<ObjectOf<M>> {
  return { data: object(members), since };
}
