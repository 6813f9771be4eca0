// What can be asked of templates: every request is checked here, and becomes a task.
import { uuidv7 } from 'uuidv7';
import { LodgeError } from '../../api/errors.ts';
import { type Subject } from '../../api/object.ts';
import { type Template, type TemplateCreate, type TemplateDeploy } from '../../api/template.ts';
import { type Vm } from '../../api/vm.ts';
import { type SpecSources } from '../profile/spec-sources.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord } from '../task/task.ts';
import { type VmCloning } from '../vm/vm-cloning.ts';
import { withHashedPassword } from '../vm/vm-service.ts';
import { initialTemplateStatus, type TemplateRecords } from './template-records.ts';
import { templateFirmware, type TemplateTasks } from './template-tasks.ts';

export interface TemplateServiceParts {
  records: TemplateRecords;
  cloning: VmCloning;
  engine: TaskEngine;
  tasks: TemplateTasks;
  references: ReferenceLock;
  sources: SpecSources;
  vm: (project: string, reference: string) => Vm;
  /** Folder in which every template has its own. */
  templatesDirectory: string;
}

type Source = Pick<TemplateCreate, 'vm' | 'snapshot'>;

export class TemplateService {
  readonly #parts: TemplateServiceParts;

  constructor(parts: TemplateServiceParts) {
    this.#parts = parts;
  }

  require(project: string, reference: string): Template {
    return this.#parts.records.collection.require(project, reference);
  }

  async create(given: TemplateCreate, requestedBy: string): Promise<TaskRecord> {
    const { records, engine, tasks, references } = this.#parts;
    const { name, project, labels, spec } = given;
    const input = await this.#inputOf(project, given);
    return references.hold(async () => {
      const id = uuidv7();
      const { record, part } = engine.prepare(tasks.addVersion, {
        target: subject({ id, name, project }),
        input: { ...input, id, version: 1 },
        requestedBy,
      });
      await records.collection.create({ id, name, project, labels, spec, status: initialTemplateStatus() }, part);
      return engine.require(record.id);
    });
  }

  async addVersion(given: Template, source: Source, requestedBy: string): Promise<TaskRecord> {
    const { records, engine, tasks, references } = this.#parts;
    const input = await this.#inputOf(given.project, source);
    return references.hold(async () => {
      const found = this.#requireReady(given);
      const { status } = await records.collection.setStatus(found.id, (now) => ({
        ...now,
        lastVersion: now.lastVersion + 1,
      }));
      return engine.submit(tasks.addVersion, {
        target: subject(found),
        input: { ...input, id: found.id, version: status.lastVersion },
        requestedBy,
      });
    });
  }

  /** Makes VMs of a version. */
  async deploy(template: Template, body: TemplateDeploy, requestedBy: string): Promise<TaskRecord> {
    const { records, cloning, sources } = this.#parts;
    const found = this.#requireReady(template);
    const version = this.#requireVersion(found, body.version ?? found.status.versions.at(-1)?.version ?? 0);
    const origin = await records.origin(found.id, version);
    if (!origin)
      throw new LodgeError('not_found', `Version ${version} of template ${found.name} was deleted just now.`);
    const { cpu, ...changes } = withoutUndefined(body.changes);
    const given = { ...origin.spec, ...changes, cpu: { ...origin.spec.cpu, ...cpu } };
    const spec = sources.expand(found.project, given, origin.spec);
    const { name, count, mode, isStarted, labels } = body;
    return cloning.make(
      { kind: 'template', id: found.id, name: `${found.name}@${version}`, project: found.project, labels },
      {
        ...origin,
        spec: await withHashedPassword(spec),
        firmware: templateFirmware(this.#parts, found.id, version),
      },
      { name, count, mode, isStarted, tpm: 'new' },
      requestedBy,
    );
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
      return engine.submit(tasks.delete, { target: subject(found), input: { id: found.id, version }, requestedBy });
    });
  }

  /** After the daemon's start: what was never finished goes, and what was being deleted is. */
  async recover(): Promise<void> {
    const { records, engine, tasks } = this.#parts;
    for (const found of [...records.collection.all()]) {
      if (found.status.state === 'ready' || engine.activeOn({ kind: 'template', id: found.id }).length > 0) continue;
      await engine.submit(tasks.delete, {
        target: subject(found),
        input: { id: found.id, version: null },
        requestedBy: 'lodge',
      });
    }
  }

  async #inputOf(project: string, { vm: reference, snapshot }: Source) {
    const vm = this.#parts.vm(project, reference);
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

function subject({ id, name, project }: Pick<Template, 'id' | 'name' | 'project'>): Subject {
  return { kind: 'template', id, name, project };
}

/** A copy without the fields that are undefined. */
function withoutUndefined<Fields extends object>(fields: Fields): Fields {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Fields;
}
