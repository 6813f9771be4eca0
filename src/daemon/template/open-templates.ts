// Everything about templates, put together: their tasks, which the engine is to know before it is there, and the services
// that ask it.
import { type Template } from '../../api/template.ts';
import { type NodeService } from '../node/node-service.ts';
import { type SpecSources } from '../profile/spec-sources.ts';
import { type Collection } from '../store/collection.ts';
import { type Log } from '../store/informer.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { type Store } from '../store/store.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { systemOf } from '../vm/definition.ts';
import { type VmCloning } from '../vm/vm-cloning.ts';
import { type VmService } from '../vm/vm-service.ts';
import { type VmStepParts } from '../vm/vm-step.ts';
import { warmTask } from '../vm/vm-warm-tasks.ts';
import { sealTask } from './seal-task.ts';
import { prepareTask } from './template-prepare-task.ts';
import { TemplateRecords } from './template-records.ts';
import { TemplateService } from './template-service.ts';
import { templateTasks, type TemplateTaskParts } from './template-tasks.ts';
import { WarmStarts } from './warm-starts.ts';

/** What is there when the first of the services is asked for. */
export interface TemplatesLater {
  engine: TaskEngine;
  cloning: VmCloning;
  vms: VmService;
  nodes: NodeService;
  references: ReferenceLock;
  sources: SpecSources;
  log: Log;
}

export interface TemplatesParts {
  steps: VmStepParts;
  objects: Collection<Template>;
  store: Store;
  /** Folder in which every template has its own. */
  directory: string;
  later: () => TemplatesLater;
}

/** Templates, with what is made of them. */
export class Templates {
  readonly records: TemplateRecords;
  readonly tasks;
  readonly #parts: TemplatesParts;
  readonly #steps: TemplateTaskParts;
  #service: TemplateService | null = null;
  #warm: WarmStarts | null = null;

  constructor(parts: TemplatesParts) {
    const { steps, objects, store, directory } = parts;
    this.#parts = parts;
    this.records = new TemplateRecords(objects, store);
    // By way of a prototype: some of these parts are only there later.
    const withMore = <More extends object>(more: More): VmStepParts & More =>
      Object.assign(Object.create(steps) as VmStepParts, more);
    this.#steps = withMore({ templates: this.records, templatesDirectory: directory });
    this.tasks = {
      ...templateTasks(this.#steps),
      prepare: prepareTask(this.#steps),
      createWarm: warmTask(
        withMore({
          prepared: (id: string, version: number) => this.warm.prepared(id, version),
          noteDamage: (id: string, version: number, reason: string) => this.warm.giveUp(id, version, 'damaged', reason),
        }),
      ),
      seal: sealTask({
        engine: () => parts.later().engine,
        records: steps.records,
        guests: steps.guests,
        templates: () => this.service,
        vms: () => parts.later().vms,
      }),
    };
  }

  get service(): TemplateService {
    const { later, directory, steps } = this.#parts;
    const { vms, ...rest } = later();
    this.#service ??= new TemplateService({
      ...rest,
      records: this.records,
      templatesDirectory: directory,
      tasks: this.tasks,
      sealing: this.tasks.seal,
      warm: this.warm,
      vm: (project, reference) => vms.require(project, reference),
      systemOf: (vm) => systemOf(steps, vm),
    });
    return this.#service;
  }

  get warm(): WarmStarts {
    const { vms, ...rest } = this.#parts.later();
    this.#warm ??= new WarmStarts({ ...rest, steps: this.#steps, service: vms, tasks: this.tasks });
    return this.#warm;
  }
}
