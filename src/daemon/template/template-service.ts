// What can be asked of templates: every request is checked here, and becomes a task.
import { uuidv7 } from 'uuidv7';
import { LodgeError } from '../../api/errors.ts';
import { type Template, type TemplateCreate, type TemplateDeploy } from '../../api/template.ts';
import { type GuestOs } from '../../api/vm-hardware.ts';
import { type Vm } from '../../api/vm.ts';
import { type SpecSources } from '../profile/spec-sources.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord, type TaskType } from '../task/task.ts';
import { type CloneInput } from '../vm/vm-clone-tasks.ts';
import { type VmCloning } from '../vm/vm-cloning.ts';
import { withHashedPassword } from '../vm/vm-service.ts';
import { type SealInput } from './seal-task.ts';
import { initialTemplateStatus, templateFirmware, templateSubject, type TemplateRecords } from './template-records.ts';
import { type WarmStarts } from './warm-starts.ts';
import { type TemplateTasks, type VersionInput } from './template-tasks.ts';

export interface TemplateServiceParts {
  records: TemplateRecords;
  cloning: VmCloning;
  engine: TaskEngine;
  tasks: TemplateTasks;
  references: ReferenceLock;
  sources: SpecSources;
  warm: WarmStarts;
  vm: (project: string, reference: string) => Vm;
  sealing: TaskType<SealInput>;
  /** What runs on a VM with this spec, and whether it gets first-boot data. */
  systemOf: (vm: Pick<Vm, 'project' | 'spec'>) => { os: GuestOs; hasFirstBoot: boolean };
  /** Folder in which every template has its own. */
  templatesDirectory: string;
}

type Source = Pick<TemplateCreate, 'vm' | 'snapshot' | 'isSealed'>;
/** What a version is made of. */
type VersionSource = Omit<VersionInput, 'id' | 'version'>;

export class TemplateService {
  readonly #parts: TemplateServiceParts;

  constructor(parts: TemplateServiceParts) {
    this.#parts = parts;
  }

  require(project: string, reference: string): Template {
    return this.#parts.records.collection.require(project, reference);
  }

  async create(given: TemplateCreate, requestedBy: string): Promise<TaskRecord> {
    const { name, project, labels, spec } = given;
    if (!given.isSealed) {
      const input = { ...(await this.#inputOf(this.#parts.vm(project, given.vm), given.snapshot)), sealed: null };
      return this.#create({ name, project, labels, spec }, input, requestedBy);
    }
    if (this.#parts.records.collection.byName(project, name))
      throw new LodgeError('name_taken', `There is a template ${name} in project ${project} already.`);
    return this.#seal(project, given, { name, labels, description: spec.description }, requestedBy);
  }

  async addVersion(given: Template, source: Source, requestedBy: string): Promise<TaskRecord> {
    if (source.isSealed) {
      const { id, project } = this.#requireReady(given);
      return this.#seal(project, source, { id }, requestedBy);
    }
    const input = await this.#inputOf(this.#parts.vm(given.project, source.vm), source.snapshot);
    return this.#addVersion(given, { ...input, sealed: null }, requestedBy);
  }

  update(
    given: Template,
    change: { revision?: number | undefined; labels?: Template['labels'] | undefined; spec: Template['spec'] },
  ): Promise<Template> {
    const { id } = this.#requireReady(given);
    return this.#parts.records.collection.update(id, change.revision, (draft) => {
      draft.spec = change.spec;
      if (change.labels) draft.labels = change.labels;
    });
  }

  /** Begins to make the copy that is sealed: off, with its cables pulled out, and never started by itself. */
  async copyToSeal({ project, vm: { id }, snapshot, copy, requestedBy }: SealInput): Promise<TaskRecord> {
    const { cloning, vm: find } = this.#parts;
    const vm = find(project, id);
    const original = await cloning.originalOf(vm, snapshot ?? undefined);
    const spec: Vm['spec'] = {
      ...original.spec,
      description: `A copy of VM ${vm.name} that is sealed for a template. It goes by itself.`,
      nics: original.spec.nics.map((nic) => ({ ...nic, isConnected: false })),
      restartPolicy: { ...original.spec.restartPolicy, mode: 'never' },
      // What it does once in a system's life was done in the original.
      ...(original.spec.cloudInit ? { cloudInit: { ...original.spec.cloudInit, userData: undefined } } : {}),
    };
    return cloning.make(
      { kind: 'vm', id, name: vm.name, project, labels: {} },
      { ...original, spec },
      { name: copy, count: 1, mode: 'linked', isStarted: false, tpm: 'new' },
      requestedBy,
    );
  }

  /** Begins to make the version of a sealed copy. */
  async keepSealed(given: SealInput, copy: Vm, sealed: string[]): Promise<TaskRecord> {
    const { project, vm, snapshot, spec, template, requestedBy } = given;
    const input = {
      ...(await this.#inputOf(copy, undefined)),
      vm: { id: copy.id, name: vm.name },
      snapshot,
      spec,
      sealed,
    };
    if ('id' in template) return this.#addVersion(this.require(project, template.id), input, requestedBy);
    const { name, labels, description } = template;
    return this.#create({ name, project, labels, spec: { description } }, input, requestedBy);
  }

  #create(
    given: Pick<Template, 'name' | 'project' | 'labels' | 'spec'>,
    input: VersionSource,
    requestedBy: string,
  ): Promise<TaskRecord> {
    const { records, engine, tasks, references } = this.#parts;
    return references.hold(async () => {
      const id = uuidv7();
      const { record, part } = engine.prepare(tasks.addVersion, {
        target: templateSubject({ ...given, id }),
        input: { ...input, id, version: 1 },
        requestedBy,
      });
      await records.collection.create({ ...given, id, status: initialTemplateStatus() }, part);
      return engine.written(record);
    });
  }

  #addVersion(given: Template, input: VersionSource, requestedBy: string): Promise<TaskRecord> {
    const { records, engine, tasks, references } = this.#parts;
    return references.hold(async () => {
      const found = this.#requireReady(given);
      const { status } = await records.collection.setStatus(found.id, (now) => ({
        ...now,
        lastVersion: now.lastVersion + 1,
      }));
      return engine.submit(tasks.addVersion, {
        target: templateSubject(found),
        input: { ...input, id: found.id, version: status.lastVersion },
        requestedBy,
      });
    });
  }

  /** Refuses what can't be sealed, and begins. */
  async #seal(
    project: string,
    source: Source,
    template: SealInput['template'],
    requestedBy: string,
  ): Promise<TaskRecord> {
    const { vm: find, cloning, engine, sealing, systemOf } = this.#parts;
    const vm = find(project, source.vm);
    const { spec } = await cloning.originalOf(vm, source.snapshot);
    const { os, hasFirstBoot } = systemOf({ project, spec });
    const why =
      os === 'linux'
        ? spec.hasAgentChannel
          ? null
          : 'it has no channel to a guest agent (spec.hasAgentChannel is false)'
        : `its operating system is ${os}, and only Linux can be sealed from here`;
    if (why !== null)
      throw new LodgeError('unsupported', `VM ${vm.name} can not be sealed: ${why}.`, {
        hint:
          os === 'windows'
            ? 'Run sysprep /generalize /shutdown in it, and make the template without sealing.'
            : 'Take out in the guest what no other should have, and make the template without sealing.',
      });
    const id = uuidv7();
    return engine.submit(sealing, {
      target: { kind: 'vm', id: vm.id, name: vm.name, project },
      input: {
        project,
        vm: { id: vm.id, name: vm.name },
        snapshot: source.snapshot ?? null,
        spec,
        copy: `seal-${id.slice(-12)}`,
        template,
        hasFirstBoot,
        requestedBy,
      },
      requestedBy,
    });
  }

  /** Makes VMs of a version. */
  async deploy(template: Template, body: TemplateDeploy, requestedBy: string): Promise<TaskRecord> {
    const { records, cloning, sources, warm } = this.#parts;
    const found = this.#requireReady(template);
    const { versions } = found.status;
    const newest = versions.findLast(({ memory }) => memory === null) ?? versions.at(-1);
    const version = this.#requireVersion(found, body.version ?? newest?.version ?? 0);
    const origin = await records.origin(found.id, version);
    if (!origin)
      throw new LodgeError('not_found', `Version ${version} of template ${found.name} was deleted just now.`);
    const { cpu, ...changes } = withoutUndefined(body.changes);
    const given = { ...origin.spec, ...changes, cpu: { ...origin.spec.cpu, ...cpu } };
    const { name, count, mode, isWarm, labels } = body;
    const ready = await withHashedPassword(sources.expand(found.project, given, origin.spec));
    const { project } = found;
    let cold: string | null = null;
    if (isWarm) {
      await warm.check({ project, spec: ready });
      const request = { names: { prefix: name, count }, project, labels, spec: ready };
      const made =
        mode === 'full'
          ? { reason: 'a full copy of the disks was asked for' }
          : await warm.start(request, await warm.ofTemplate(found, body.version), requestedBy);
      if ('task' in made) return made.task;
      cold = made.reason;
    }
    const task = await cloning.make(
      { kind: 'template', id: found.id, name: `${found.name}@${version}`, project: found.project, labels },
      {
        ...origin,
        spec: ready,
        firmware: templateFirmware(this.#parts, found.id, version),
      },
      { name, count, mode, isStarted: body.isStarted || isWarm, tpm: 'new' },
      requestedBy,
    );
    const { copies } = task.input as CloneInput;
    if (cold !== null) await warm.tellCold(copies, project, cold);
    return task;
  }

  async delete(given: Template, version: number | null, requestedBy: string): Promise<TaskRecord> {
    const { records, engine, tasks, references } = this.#parts;
    return references.hold(async () => {
      const found = records.collection.require(given.project, given.id);
      const [active] = engine.activeOn({ kind: 'template', id: found.id });
      if (active)
        throw new LodgeError(
          'busy',
          `Template ${found.name} is being worked on by task ${active.id} (${active.type}).`,
          {
            hint: `Wait for it: lodge task wait ${active.id}`,
          },
        );
      if (version !== null) {
        this.#requireVersion(found, version);
        if (found.status.versions.length === 1)
          throw new LodgeError('wrong_state', `Version ${version} is the only one of template ${found.name}.`, {
            hint: `Delete the template: lodge template delete ${found.name}`,
          });
      } else
        await records.collection.setStatus(found.id, (status) => ({
          ...status,
          state: 'deleting',
          reason: 'It is being deleted.',
        }));
      return engine.submit(tasks.delete, {
        target: templateSubject(found),
        input: { id: found.id, version },
        requestedBy,
      });
    });
  }

  /** After the daemon's start: what was never finished goes, and what was being deleted is. */
  async recover(): Promise<void> {
    const { records, engine, tasks } = this.#parts;
    for (const found of [...records.collection.all()]) {
      if (found.status.state === 'ready' || engine.activeOn({ kind: 'template', id: found.id }).length > 0) continue;
      await engine.submit(tasks.delete, {
        target: templateSubject(found),
        input: { id: found.id, version: null },
        requestedBy: 'lodge',
      });
    }
  }

  async #inputOf(vm: Vm, snapshot: string | undefined): Promise<Omit<VersionSource, 'sealed'>> {
    const { spec, disks, layers, firmware } = await this.#parts.cloning.originalOf(vm, snapshot);
    return {
      vm: { id: vm.id, name: vm.name },
      snapshot: snapshot ?? null,
      spec,
      disks: disks.map(({ name, sizeMib }) => ({ name, volume: null, image: null, sizeMib })),
      layers,
      firmware,
    };
  }

  #requireReady(given: Template): Template {
    const found = this.#parts.records.collection.require(given.project, given.id);
    if (found.status.state === 'ready') return found;
    throw new LodgeError('wrong_state', `Template ${found.name} is ${found.status.state}: ${found.status.reason}`, {
      hint: 'Wait until it is ready (lodge template list).',
    });
  }

  #requireVersion({ name, status }: Template, version: number): number {
    if (status.versions.some((one) => one.version === version)) return version;
    const all = status.versions.map((one) => one.version).join(', ');
    throw new LodgeError('not_found', `Template ${name} has no version ${version}; it has ${all}.`, {
      hint: `lodge template show ${name} tells more of each.`,
    });
  }
}

/** A copy without the fields that are undefined. */
function withoutUndefined<Fields extends object>(fields: Fields): Fields {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Fields;
}
