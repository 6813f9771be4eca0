// First-boot data may hold secrets: the hash of a password, and whatever stands in user-data. Who may change VMs reads
// them; everybody else sees that there is something, and not what.
import { invalidField } from '../../api/errors.ts';
import { hiddenSecret, type VmSpec } from '../../api/vm-spec.ts';
import { type Vm } from '../../api/vm.ts';
import { isAllowed, type Caller } from '../http/context.ts';

const secretFields = ['password', 'userData'] as const;

/** A VM as this caller may see it, wherever it is shown: alone, in lists and in the stream of changes. */
export function vmFor(caller: Caller, vm: Vm): Vm {
  if (isAllowed(caller, 'vm.update')) return vm;
  const { spec, status } = vm;
  const hasSecrets = hidesAny(spec) || (status.startedSpec !== null && hidesAny(status.startedSpec));
  if (!hasSecrets) return vm;
  const startedSpec = status.startedSpec && withoutSecrets(status.startedSpec);
  return { ...vm, spec: withoutSecrets(spec), status: { ...status, startedSpec } };
}

/** Refuses a spec that was read by somebody who may not see its secrets. */
export function refuseHiddenSecrets(spec: VmSpec): void {
  for (const field of secretFields) {
    if (spec.cloudInit?.[field] !== hiddenSecret) continue;
    throw invalidField(
      `spec.cloudInit.${field}`,
      'was hidden from who read this VM; read it as an admin, or give the value anew',
      hiddenSecret,
    );
  }
}

function hidesAny({ cloudInit }: VmSpec): boolean {
  return secretFields.some((field) => cloudInit?.[field] !== undefined);
}

function withoutSecrets({ inherited, ...spec }: VmSpec): VmSpec {
  const shown = inherited?.map((one) => (one.field === 'cloudInit.userData' ? { ...one, value: hiddenSecret } : one));
  return { ...withoutOwnSecrets(spec), ...(shown ? { inherited: shown } : {}) };
}

function withoutOwnSecrets(spec: VmSpec): VmSpec {
  if (!spec.cloudInit) return spec;
  const cloudInit = { ...spec.cloudInit };
  for (const field of secretFields) if (cloudInit[field] !== undefined) cloudInit[field] = hiddenSecret;
  return { ...spec, cloudInit };
}
