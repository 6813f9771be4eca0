// Routes of profiles and of instance types.
import { type NounHandlers } from '../../api/contract.ts';
import { invalidField } from '../../api/errors.ts';
import { expandSpec } from '../../api/expand-spec.ts';
import { instanceType as instanceTypeSchema, type InstanceType } from '../../api/instance-type.ts';
import { profile as profileSchema, type Profile, type ProfileSpec } from '../../api/profile.ts';
import { hiddenSecret } from '../../api/vm-spec.ts';
import { isAllowed, type ByteSource, type Caller, type RequestContext } from '../http/context.ts';
import { lister } from '../store/list-page.ts';
import { composeSeed } from '../vm/seed.ts';
import { type SourceService } from './source-service.ts';
import { type SpecSources } from './spec-sources.ts';

type InProject = { project: string };

export function profileHandlers(
  service: SourceService<Profile>,
  { profiles }: SpecSources,
): NounHandlers<'profile', RequestContext, ByteSource> {
  const list = lister(profileSchema, {
    all: (caller: Caller) => shownTo(caller, profiles.all()),
    revision: () => profiles.revision,
  });
  const find = ({ params, query }: { params: { profile: string }; query: InProject }): Profile =>
    service.require(query.project, params.profile);
  return {
    list: async ({ query }, { caller }) => list(query, caller),
    create: async ({ body }) => service.create(checked(body)),
    get: async (request, { caller }) => profileFor(caller, find(request)),
    update: (request) => service.update(find(request), checked(request.body)),
    delete: (request) => service.delete(find(request), request.query.force),
    apply: (request, { caller }) => service.apply(find(request), request.body.vms, caller.name),
  };
}

export function instanceTypeHandlers(
  service: SourceService<InstanceType>,
  sources: SpecSources,
): NounHandlers<'instanceType', RequestContext, ByteSource> {
  const { instanceTypes } = sources;
  const list = lister(instanceTypeSchema, {
    all: () => instanceTypes.all(),
    revision: () => instanceTypes.revision,
  });
  const find = ({ params, query }: { params: { instanceType: string }; query: InProject }): InstanceType =>
    service.require(query.project, params.instanceType);
  return {
    list: async ({ query }) => list(query),
    create: ({ body }) => service.create(body),
    // As VMs of the project find it. Changed are only its own.
    get: async ({ params, query }) =>
      sources.instanceType(query.project, params.instanceType) ?? find({ params, query }),
    update: (request) => service.update(find(request), request.body),
    delete: (request) => service.delete(find(request), request.query.force),
    apply: (request, { caller }) => service.apply(find(request), request.body.vms, caller.name),
  };
}

/** A profile as this caller may see it: user-data may hold secrets. */
export function profileFor(caller: Caller, profile: Profile): Profile {
  const { cloudInit } = profile.spec;
  if (cloudInit?.userData === undefined || isAllowed(caller, 'profile.update')) return profile;
  return { ...profile, spec: { ...profile.spec, cloudInit: { ...cloudInit, userData: hiddenSecret } } };
}

function* shownTo(caller: Caller, profiles: Iterable<Profile>): Iterable<Profile> {
  for (const profile of profiles) yield profileFor(caller, profile);
}

/** Refuses what was read by somebody who may not see its secrets, and first-boot data that would be refused of a VM. */
function checked<Body extends { spec: ProfileSpec }>(body: Body): Body {
  if (body.spec.cloudInit?.userData === hiddenSecret)
    throw invalidField('spec.cloudInit.userData', 'was hidden from who read this profile', hiddenSecret);
  const name = 'any';
  const spec = expandSpec({}, { previous: null, sources: [{ kind: 'profile', name, spec: body.spec }] });
  if (spec.cloudInit) composeSeed({ id: '', name, spec, status: { nics: [] } });
  return body;
}
