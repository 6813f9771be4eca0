// The whole contract: every noun's routes. A route's id is `noun.verb`.
import { addressSetRoutes } from './address-set.ts';
import { eventRoutes } from './event.ts';
import { firewallRoutes } from './firewall.ts';
import { groupRoutes } from './group.ts';
import { imageRoutes } from './image.ts';
import { instanceTypeRoutes } from './instance-type.ts';
import { networkRoutes } from './network.ts';
import { nodeRoutes } from './node.ts';
import { profileRoutes } from './profile.ts';
import type { Route, RouteAnswer, RouteInput, RouteRequest, RouteTable } from './route.ts';
import { securityGroupRoutes } from './security-group.ts';
import { serverRoutes } from './server.ts';
import { sessionRoutes } from './session.ts';
import { snapshotRoutes } from './snapshot.ts';
import { taskRoutes } from './task.ts';
import { templateRoutes } from './template.ts';
import { tokenRoutes } from './token.ts';
import { vmRoutes } from './vm.ts';
import { volumeRoutes } from './volume.ts';

/** All routes by noun and verb. */
export const contract = {
  server: serverRoutes,
  node: nodeRoutes,
  vm: vmRoutes,
  group: groupRoutes,
  snapshot: snapshotRoutes,
  template: templateRoutes,
  profile: profileRoutes,
  instanceType: instanceTypeRoutes,
  image: imageRoutes,
  volume: volumeRoutes,
  network: networkRoutes,
  securityGroup: securityGroupRoutes,
  addressSet: addressSetRoutes,
  firewall: firewallRoutes,
  task: taskRoutes,
  event: eventRoutes,
  token: tokenRoutes,
  session: sessionRoutes,
} as const satisfies Record<string, RouteTable>;

export type Contract = typeof contract;
export type Noun = keyof Contract;

/** A function for every route of one noun; leaving one out does not compile. */
export type NounHandlers<N extends Noun, Context, ByteSource> = {
  [Verb in keyof Contract[N]]: Contract[N][Verb] extends Route
    ? (
        request: RouteRequest<Contract[N][Verb], ByteSource>,
        context: Context,
      ) => Promise<RouteAnswer<Contract[N][Verb], ByteSource>>
    : never;
};

/** A function for every route of the contract. */
export type Handlers<Context, ByteSource> = { [N in Noun]: NounHandlers<N, Context, ByteSource> };

/** The typed client: a method for every route. */
export type ClientMethods<ByteIn, ByteOut, Options> = {
  [N in Noun]: {
    [Verb in keyof Contract[N]]: Contract[N][Verb] extends Route
      ? Record<never, never> extends RouteInput<Contract[N][Verb], ByteIn>
        ? (
            input?: RouteInput<Contract[N][Verb], ByteIn>,
            options?: Options,
          ) => Promise<RouteAnswer<Contract[N][Verb], ByteOut>>
        : (
            input: RouteInput<Contract[N][Verb], ByteIn>,
            options?: Options,
          ) => Promise<RouteAnswer<Contract[N][Verb], ByteOut>>
      : never;
  };
};

/** Every route with its id, in the order of the contract. */
export function allRoutes(): { id: string; noun: Noun; verb: string; route: Route }[] {
  return Object.entries(contract).flatMap(([noun, table]) =>
    Object.entries(table as RouteTable).map(([verb, definition]) => ({
      id: `${noun}.${verb}`,
      noun: noun as Noun,
      verb,
      route: definition,
    })),
  );
}
