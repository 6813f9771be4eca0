// Whether a started guest's vCPUs have what its spec asked for. QEMU only warns of a feature that the accelerator doesn't
// have, and leaves it out; a program in the guest would find out by dying.
import { LodgeError, type FieldProblem } from '../../api/errors.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { featuresOfLevel } from './cpu-model.ts';
import { QmpError } from './qmp/errors.ts';
import { type QmpConnection } from './qmp/connection.ts';

/** Throws `unsupported`, naming the features, when the vCPUs lack any. The features of a model of QEMU's are its own affair. */
export async function requireCpuFeatures(
  qmp: QmpConnection,
  name: string,
  { cpu }: Pick<VmSpec, 'cpu'>,
  accelerator: 'kvm' | 'tcg',
): Promise<void> {
  const wanted = [
    { field: 'spec.cpu.model', features: featuresOfLevel(cpu.model) ?? [], value: cpu.model },
    { field: 'spec.cpu.enable', features: cpu.enable, value: cpu.enable },
  ].filter(({ features }) => features.length > 0);
  if (wanted.length === 0) return;
  const [first] = await qmp.execute('query-cpus-fast');
  if (!first) throw new LodgeError('hypervisor_failed', `QEMU shows no vCPU of VM ${name}.`);
  const problems: FieldProblem[] = [];
  for (const { field, features, value } of wanted) {
    const disabled = new Set(cpu.disable);
    const missing: string[] = [];
    for (const feature of features) {
      if (!disabled.has(feature) && !(await hasFeature(qmp, first['qom-path'], feature))) missing.push(feature);
    }
    if (missing.length > 0) problems.push({ field, message: `it lacks ${missing.join(', ')}`, value });
  }
  if (problems.length === 0) return;
  const what = problems.map((problem) => `${problem.field}: ${problem.message}`).join('; ');
  throw new LodgeError(
    'unsupported',
    `VM ${name} asks for CPU features that a vCPU under ${accelerator} on this node does not have. ${what}`,
    { fields: problems, hint: 'Ask for a lower level or fewer features, or use a node that has them.' },
  );
}

async function hasFeature(qmp: QmpConnection, path: string, feature: string): Promise<boolean> {
  for (const property of [feature, feature.replaceAll('_', '-')]) {
    try {
      return (await qmp.execute('qom-get', { path, property })) === true;
    } catch (error) {
      if (!(error instanceof QmpError)) throw error;
    }
  }
  return false;
}
