// Warm starts: preparing guests that are saved, booted, and new VMs that go on from them. A VM that nothing prepared fits
// boots instead, and an event says why; what was prepared under another QEMU or processor is prepared anew.
import { uuidv7 } from 'uuidv7';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Image } from '../../api/image.ts';
import { type Template, type TemplateMemory, type TemplatePrepare } from '../../api/template.ts';
import { type VmSpecInput } from '../../api/vm-spec.ts';
import { type Vm } from '../../api/vm.ts';
import { type NodeService } from '../node/node-service.ts';
import { type Log } from '../store/informer.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord, type TaskType } from '../task/task.ts';
import { namesOfCopies, whyNotForkable } from '../vm/fork-copies.ts';
import { vmSubject } from '../vm/vm-records.ts';
import { type VmRequest, type VmService } from '../vm/vm-service.ts';
import { type PreparedGuest, type WarmInput } from '../vm/vm-warm-tasks.ts';
import { seedOfVersion, type PrepareInput } from './template-prepare-task.ts';
import { initialTemplateStatus, templateFirmware, templateSubject, type TemplateOrigin } from './template-records.ts';
import { type TemplateTaskParts } from './template-tasks.ts';
import { whyNotWarm } from './warm-fit.ts';

export interface WarmStartsParts {
  steps: TemplateTaskParts;
  tasks: { prepare: TaskType<PrepareInput>; createWarm: TaskType<WarmInput> };
  service: VmService;
  nodes: Pick<NodeService, 'requireRoom' | 'requireCapability'>;
  engine: TaskEngine;
  references: ReferenceLock;
  log: Log;
}

/** New VMs that are wanted. */
export interface WarmRequest {
  names: { prefix: string; count: number };
  project: string;
  labels: Vm['labels'];
  spec: Vm['spec'];
}

/** What is to be prepared. Its spec is what somebody said, as that of a new VM is: what is left out may come from profiles. */
export type PrepareRequest = Omit<TemplatePrepare, 'spec'> & { spec?: VmSpecInput | undefined };

/** A version that VMs may go on from. */
interface Candidate {
  template: Template;
  version: number;
  origin: TemplateOrigin;
}

/** Either the task that makes them, or why they have to boot. */
type WarmOutcome = { task: TaskRecord } | { reason: string };

export class WarmStarts {
  readonly #parts: WarmStartsParts;

  constructor(parts: WarmStartsParts) {
    this.#parts = parts;
  }

  /** Makes a VM of an image, from what was prepared of it where that fits. */
  async create(given: VmRequest, requestedBy: string): Promise<TaskRecord> {
    const { service } = this.#parts;
    const spec = await service.checkCreation(given, true);
    const { name, project, labels } = given;
    const made = await this.start(
      { names: { prefix: name, count: 1 }, project, labels, spec },
      await this.#ofImage(project, spec.image),
      requestedBy,
    );
    if ('task' in made) return made.task;
    const task = await service.create(given, true, requestedBy);
    await this.tellCold([{ id: task.target.id, name }], project, made.reason);
    return task;
  }

  /** Refuses a VM that can't be, or that the node has no room for. */
  async check(vm: Pick<Vm, 'project' | 'spec'>): Promise<void> {
    await this.#parts.service.checkNew(vm);
    this.#parts.nodes.requireRoom(vm.spec, true);
  }

  /** Makes VMs of the first candidate that fits. */
  async start(request: WarmRequest, candidates: readonly Candidate[], requestedBy: string): Promise<WarmOutcome> {
    const { names, project, labels, spec } = request;
    let reason = spec.image
      ? `nothing is prepared of image ${spec.image} (lodge vm prepare ${spec.image})`
      : 'nothing is prepared of it (lodge vm prepare)';
    for (const { template, version, origin } of candidates) {
      const why = await this.#whyNot(template, version, origin, spec);
      if (why === null) {
        const { engine, tasks, steps } = this.#parts;
        const isTaken = (name: string): boolean => steps.records.collection.byName(project, name) !== null;
        const all = namesOfCopies(names.prefix, { count: names.count, isWhole: true, isTaken });
        const task = await engine.submit(tasks.createWarm, {
          target: templateSubject(template),
          input: {
            parent: { id: template.id, name: template.name, version },
            copies: all.map((name) => ({ id: uuidv7(), name })),
            project,
            labels,
            spec,
          },
          requestedBy,
        });
        return { task };
      }
      reason = `${template.name}@${version} was prepared, but ${why}`;
    }
    return { reason };
  }

  /** The versions of a template with memory, newest first; `version`: those that were booted from it, or itself. */
  async ofTemplate(template: Template, version: number | undefined): Promise<Candidate[]> {
    const fitting = template.status.versions.filter(
      (one) => one.memory && (version === undefined || one.version === version || one.memory.version === version),
    );
    return this.#withOrigins(fitting.toReversed().map((one) => ({ template, version: one.version })));
  }

  async #ofImage(project: string, reference: string | undefined): Promise<Candidate[]> {
    const image = reference === undefined ? null : this.#image(project, reference);
    if (!image) return [];
    const all = [...this.#parts.steps.templates.collection.all()].filter((template) => template.project === project);
    const found = await Promise.all(all.map((template) => this.ofTemplate(template, undefined)));
    return found.flat().filter(({ origin }) => origin.warm?.imageId === image.id);
  }

  #image(project: string, reference: string): Image | null {
    return this.#parts.steps.images.find(project, reference);
  }

  async #withOrigins(versions: readonly Omit<Candidate, 'origin'>[]): Promise<Candidate[]> {
    const found: Candidate[] = [];
    for (const one of versions) {
      const origin = await this.#parts.steps.templates.origin(one.template.id, one.version);
      if (origin?.warm) found.push({ ...one, origin });
    }
    return found;
  }

  /** Null: VMs with this spec can go on from it. */
  async #whyNot(template: Template, version: number, origin: TemplateOrigin, spec: Vm['spec']): Promise<string | null> {
    const memory = template.status.versions.find((one) => one.version === version)?.memory;
    if (!memory || !origin.warm) return 'it is gone';
    if (memory.state !== 'ready') return `it is ${memory.state}: ${memory.reason}`;
    return (await this.#parts.steps.driver.whyNotUsable(origin.warm.memory)) ?? whyNotWarm(origin.spec, spec);
  }

  /** Says of VMs that they boot although memory was asked for. */
  async tellCold(vms: readonly { id: string; name: string }[], project: string, reason: string): Promise<void> {
    for (const vm of vms)
      await this.#parts.steps.events.record({
        type: 'vm.started-cold',
        subject: vmSubject({ ...vm, project }),
        message: `VM ${vm.name} boots, and does not go on from prepared memory: ${reason}.`,
      });
  }

  /** Boots a VM to keep it. */
  async prepare(body: PrepareRequest, requestedBy: string): Promise<TaskRecord> {
    const { service, steps } = this.#parts;
    const records = steps.templates;
    const { project, template: reference, name, spec: given, version } = body;
    if ((given === undefined) === (reference === undefined))
      throw invalidField('spec', 'is given, or a template, and not both', given && 'both');
    if (reference !== undefined) {
      if (name !== undefined) throw invalidField('name', 'is that of the template', name);
      const template = records.collection.require(project, reference);
      const cold = template.status.versions.filter((one) => !one.memory);
      const from = version ?? cold.at(-1)?.version;
      if (from === undefined || !cold.some((one) => one.version === from))
        throw new LodgeError('not_found', `Template ${template.name} has no version ${from ?? ''} without memory.`, {
          hint: `lodge template versions ${template.name} lists them. What was prepared from an image is prepared again from that.`,
        });
      const origin = await records.origin(template.id, from);
      if (!origin) throw new LodgeError('not_found', `Version ${from} of template ${template.name} is gone.`);
      return this.#prepare({ project, name: template.name, spec: origin.spec, image: null, from }, requestedBy);
    }
    if (version !== undefined) throw invalidField('version', 'is of a template, and a spec was given', version);
    const spec = given && (await service.wholeSpec(project, given));
    const image = spec?.image === undefined ? null : this.#image(project, spec.image);
    if (!image || !spec) throw invalidField('spec.image', 'names the image that the VM boots from', spec?.image);
    return this.#prepare({ project, name: name ?? image.name, spec, image, from: null }, requestedBy);
  }

  async #prepare(
    {
      project,
      name,
      spec,
      image,
      from,
    }: {
      project: string;
      name: string;
      spec: Vm['spec'];
      image: Image | null;
      from: number | null;
    },
    requestedBy: string,
  ): Promise<TaskRecord> {
    const { steps, service, nodes, engine, tasks, references } = this.#parts;
    const records = steps.templates;
    nodes.requireCapability('fork', 'No VM can be prepared');
    const own: Vm['spec'] = {
      ...spec,
      autostart: false,
      nics: spec.nics.map(({ mac: _mac, ipv4Address: _ipv4, ipv6Address: _ipv6, forwards: _forwards, ...nic }) => nic),
    };
    const volume = own.disks.find((disk) => disk.volume !== undefined && from === null);
    const reason =
      whyNotForkable({ spec: own, pinned: null }) ??
      (own.hasAgentChannel ? null : 'it has no channel for a guest agent, by which VMs get their identity') ??
      (volume ? `disk ${volume.name} is the volume ${volume.volume}, which only one VM can have` : null);
    if (reason) throw new LodgeError('unsupported', `The VM can not be prepared: ${reason}.`);
    await service.checkNew({ project, spec: own });
    nodes.requireRoom(own, true);
    const vmId = uuidv7();
    const input = {
      vmId,
      vmName: `prepare-${vmId.slice(-12)}`,
      project,
      spec: own,
      image: image && { id: image.id, name: image.name },
      from,
    };
    return references.hold(async () => {
      const found = records.collection.byName(project, name);
      if (!found) {
        const id = uuidv7();
        const { record, part } = engine.prepare(tasks.prepare, {
          target: templateSubject({ id, name, project }),
          input: { ...input, id, version: 1 },
          requestedBy,
        });
        const described = { description: `Prepared from image ${image?.name ?? ''}` };
        const status = initialTemplateStatus();
        await records.collection.create({ id, name, project, labels: {}, spec: described, status }, part);
        return engine.written(record);
      }
      if (found.status.state !== 'ready')
        throw new LodgeError('wrong_state', `Template ${name} is ${found.status.state}: ${found.status.reason}`, {
          hint: 'Wait until it is ready (lodge template list), or give another name.',
        });
      const { status } = await records.collection.setStatus(found.id, (now) => ({
        ...now,
        lastVersion: now.lastVersion + 1,
      }));
      return engine.submit(tasks.prepare, {
        target: templateSubject(found),
        input: { ...input, id: found.id, version: status.lastVersion },
        requestedBy,
      });
    });
  }

  /** What there is of a version for VMs to go on from. */
  async prepared(id: string, version: number): Promise<PreparedGuest | null> {
    const origin = await this.#parts.steps.templates.origin(id, version);
    if (!origin?.warm) return null;
    const { memory, status, hasSeed } = origin.warm;
    return {
      memory,
      status,
      disks: origin.disks,
      layers: origin.layers,
      firmware: templateFirmware(this.#parts.steps, id, version),
      seed: hasSeed ? seedOfVersion(this.#parts.steps, id, version) : null,
    };
  }

  /** The memory of a version is of no use any more: no VM is made of it from here on, and it is prepared anew. */
  async giveUp(id: string, version: number, state: TemplateMemory['state'], reason: string): Promise<void> {
    const { steps, log } = this.#parts;
    const { templates: records, events } = steps;
    const template = records.collection.get(id);
    const memory = template?.status.versions.find((one) => one.version === version)?.memory;
    if (!template || !memory || memory.state !== 'ready') return;
    await records.collection.setStatus(id, (status) => ({
      ...status,
      versions: status.versions.map((one) =>
        one.version === version && one.memory ? { ...one, memory: { ...one.memory, state, reason } } : one,
      ),
    }));
    await events.record({
      type: `template.memory-${state}`,
      severity: 'warning',
      subject: templateSubject(template),
      message: `No VM can go on from the memory of template ${template.name}@${version} any more: ${reason}. It is prepared anew; until then VMs boot.`,
    });
    await this.#prepareAgain(template, version).catch((error: unknown) =>
      log.warn({ err: error, template: template.name, version }, 'a version could not be prepared anew'),
    );
  }

  async #prepareAgain(template: Template, version: number): Promise<void> {
    const origin = await this.#parts.steps.templates.origin(template.id, version);
    if (!origin?.warm) return;
    const { imageId, version: from } = origin.warm;
    const { project, name } = template;
    const image = imageId === null ? null : this.#image(project, imageId);
    if (imageId !== null && !image) return;
    const { spec } = origin;
    await this.#prepare({ project, name, spec, image, from }, 'lodge');
  }

  /** After the daemon's start: what was saved by another QEMU, or with another processor, is prepared anew. */
  async recover(): Promise<void> {
    for (const template of [...this.#parts.steps.templates.collection.all()])
      for (const { version, origin } of await this.ofTemplate(template, undefined)) {
        const memory = origin.warm?.memory;
        const reason = memory ? await this.#parts.steps.driver.whyNotUsable(memory) : null;
        if (reason) await this.giveUp(template.id, version, 'outdated', reason);
      }
  }
}
