// lodge vm create: makes a VM, starts it, and waits until one can work with it.
import { randomUUID } from 'node:crypto';
import { imageRecipe, type Image } from '../../api/image.ts';
import { LodgeError } from '../../api/errors.ts';
import type { Task } from '../../api/task.ts';
import type { Vm } from '../../api/vm.ts';
import { minMemoryMib, type VmSpecInput } from '../../api/vm-spec.ts';
import { closestWord } from '../../lib/closest-word.ts';
import { formatDuration } from '../../lib/duration.ts';
import { askSecret, readStdin } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import { parseLabels } from '../labels.ts';
import { fetchImages } from '../noun/image.ts';
import { followTask } from '../output/follow.ts';
import { printOne } from '../output/print.ts';
import { specFromOptions, type CreateSpecOptions } from './create-spec.ts';
import { provideIso } from './iso.ts';
import { defaultGuestTimeoutMs, waitForVms } from './power.ts';
import { tellWhyCold } from './prepare.ts';
import { parseTemplateName } from './template-name.ts';
import { addressesOf, vmPrintable } from './view.ts';
import type { VmGoal } from './wait.ts';
import { usageError } from '../usage-error.ts';

export interface CreateOptions extends CreateSpecOptions {
  template?: string;
  full?: boolean;
  warm?: boolean;
  label?: string[];
  passwordStdin?: boolean;
  passwordAsk?: boolean;
  start: boolean;
  wait: boolean | undefined;
  waitFor?: VmGoal;
  timeout?: number;
}

/** Options by the field of the contract that they set, so that errors speak of what was typed. */
const optionOfField: Readonly<Record<string, string>> = {
  name: 'the name',
  'spec.cpu.count': '--cpus',
  'spec.cpu.model': '--cpu-model',
  'spec.memoryMib': '--memory',
  'spec.image': '--image',
  'spec.nics.0.network': '--network',
  'spec.instanceType': '--type',
  'spec.profiles': '--profile',
  'spec.machine': '--machine',
  'spec.firmware.type': '--firmware',
  'spec.accelerator': '--accelerator',
  'spec.cloudInit.user': '--user',
  'spec.cloudInit.password': '--password-stdin',
  'spec.cloudInit.userData': '--user-data',
  'spec.cloudInit.hostname': '--hostname',
};

export async function createVm(session: Session, options: CreateOptions, name: string): Promise<void> {
  if (options.waitFor !== undefined && options.waitFor !== 'created' && !options.start) {
    throw usageError(`--wait-for ${options.waitFor} needs the VM to start`, {
      hint: 'Leave --no-start out.',
    });
  }
  if (options.iso !== undefined && (options.image !== undefined || options.template !== undefined))
    throw usageError('--iso is to install a system on an empty disk, and there is --image or --template', {
      hint: 'For a medium beside a system that is there: --cdrom.',
    });
  const password = await passwordOf(options);
  const iso = options.iso === undefined ? null : await provideIso(session, options.iso);
  const spec = await specFromOptions({
    ...options,
    ...(password === undefined ? {} : { password }),
    ...(iso === null ? {} : { iso: iso.name, os: options.os ?? iso.spec.os }),
  });
  const { project, client, terminal } = session;
  if (options.template === undefined && options.full) throw usageError('--full is for VMs of a --template');
  const { template } = options;
  const isWarm = options.warm === true;
  if (isWarm && !options.start) throw usageError('--warm is about how a VM starts', { hint: 'Leave --no-start out.' });
  const isStartedLater = template !== undefined && options.start && options.wait !== false && !isWarm;
  const task = await inWordsOfOptions(session, spec, () =>
    template === undefined
      ? client.vm.create({
          query: { start: options.start, warm: isWarm },
          body: { name, project, labels: parseLabels(options.label), spec },
          // A lost answer must not make a second VM.
          idempotencyKey: randomUUID(),
        })
      : deployTemplate(session, { ...options, template, start: options.start && !isStartedLater }, name, spec),
  );
  if (options.wait === false) {
    terminal.line(`VM ${name} is being created${options.start ? ' and started' : ''} (task ${task.id}).`);
    terminal.note(`Follow it: lodge task wait ${task.id}`);
    return;
  }
  await followTask(session, task, `create VM ${name}`, {
    done: options.start && !isStartedLater ? 'created and started' : 'created',
  });
  if (isStartedLater) {
    const start = await client.vm.start({ params: { vm: name }, query: { project } });
    await followTask(session, start, `start VM ${name}`, { done: 'started' });
  }
  const read = (): Promise<Vm> => client.vm.get({ params: { vm: name }, query: { project } });
  let vm = await read();
  if (isWarm) await tellWhyCold(session, vm);
  const wait = await waitOf(session, options, vm, spec);
  let { goal } = wait;
  if (goal !== 'created' && goal !== 'running') {
    const reached = await waitedFor(session, name, wait);
    if (reached === null) goal = 'running';
    vm = reached ?? (await read());
    // The guest says that it is up a moment before its address is known; it is worth that moment.
    const mostTries = vm.status.nics.length === 0 ? 0 : 10;
    for (let tries = 0; tries < mostTries && addressesOf(vm).length === 0; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      vm = await read();
    }
  }
  await printOne(session, vmPrintable, vm, () => [summary(vm, goal)]);
  if (session.format === 'table') for (const line of nextSteps(vm, goal, iso !== null)) terminal.note(line);
}

/** What of a spec can be other than in a template. */
const changeable = [
  'description',
  'cpu',
  'memoryMib',
  'nics',
  'cloudInit',
  'autostart',
  'instanceType',
  'profiles',
] as const;

function deployTemplate(
  session: Session,
  options: CreateOptions & { template: string },
  name: string,
  spec: VmSpecInput,
): Promise<Task> {
  const given = Object.entries(spec).filter(
    ([, value]) => value !== undefined && !(typeof value === 'object' && Object.keys(value).length === 0),
  );
  const strange = given.find(([field]) => !(changeable as readonly string[]).includes(field));
  const { count, ...otherCpu } = spec.cpu ?? {};
  const otherField = Object.keys(otherCpu)[0];
  const field = strange?.[0] ?? (otherField === undefined ? undefined : `cpu.${otherField}`);
  if (field !== undefined)
    throw usageError(`with --template, spec.${field} is that of the template`, {
      hint: `Change it afterwards: lodge vm set ${name} ${field}=…`,
    });
  const { name: templateName, version } = parseTemplateName(options.template);
  const { description, memoryMib, nics, cloudInit, autostart, instanceType, profiles } = spec;
  return session.client.template.deploy({
    params: { template: templateName },
    query: { project: session.project },
    body: {
      name,
      version,
      mode: options.full ? 'full' : 'linked',
      isStarted: options.start,
      isWarm: options.warm,
      labels: parseLabels(options.label),
      changes: {
        description,
        memoryMib,
        nics,
        cloudInit,
        autostart,
        instanceType,
        profiles,
        ...(count === undefined ? {} : { cpu: { count } }),
      },
    },
    idempotencyKey: randomUUID(),
  });
}

async function passwordOf(options: CreateOptions): Promise<string | undefined> {
  if (options.passwordStdin === true) return (await readStdin(1000, 'the password')).replace(/\r?\n$/, '');
  if (options.passwordAsk === true) {
    const password = await askSecret('Password for the guest’s user: ');
    if (password !== (await askSecret('Once more: '))) throw usageError('the two passwords differ');
    return password;
  }
  return options.password;
}

/** Runs a request; its errors speak of options instead of fields, and of what a newcomer may have missed. */
async function inWordsOfOptions<Result>(
  session: Session,
  spec: VmSpecInput,
  body: () => Promise<Result>,
): Promise<Result> {
  try {
    return await body();
  } catch (failure) {
    if (!(failure instanceof LodgeError)) throw failure;
    const hint = await hintAbout(session, spec, failure);
    let { message } = failure;
    const fields = failure.fields?.map((field) => {
      const option = optionOf(field.field);
      if (option === null) return field;
      if (message.startsWith(`${field.field}: `)) message = `${option}: ${message.slice(field.field.length + 2)}`;
      return { ...field, field: `${option} (${field.field})` };
    });
    throw new LodgeError(failure.code, message, { hint, fields, requestId: failure.requestId, cause: failure });
  }
}

function optionOf(field: string): string | null {
  return Object.entries(optionOfField).find(([path]) => field === path || field === `body.${path}`)?.[1] ?? null;
}

async function hintAbout(session: Session, spec: VmSpecInput, failure: LodgeError): Promise<string> {
  const { image, memoryMib } = spec;
  if (failure.code === 'not_found' && image !== undefined && failure.message.includes(image)) {
    if ((imageRecipe.options as readonly string[]).includes(image)) return `Build it first: lodge image build ${image}`;
    const names = await fetchImages(session.client, { project: session.project, limit: 500 }).then(
      (page) => page.items.map((one) => one.name),
      () => [],
    );
    const near = closestWord(image, names);
    if (near !== null) return `Did you mean ${near}? lodge image list shows all.`;
    return names.length === 0
      ? 'There is no image yet. Build one: lodge image build debian-12'
      : `There are: ${names.join(', ')}.`;
  }
  const isAboutMemory = failure.fields?.some(({ field }) => field.endsWith('memoryMib')) === true;
  if (isAboutMemory && memoryMib !== undefined && memoryMib < minMemoryMib) {
    return `A bare number is MiB; for GiB write ${memoryMib}GiB.`;
  }
  return failure.hint;
}

/** What is waited for, and how long. */
interface Wait {
  goal: VmGoal;
  timeoutMs: number;
  /** Nothing tells whether the guest can reach the goal: when it doesn't in time, that is said and no error. */
  isTry: boolean;
}

/** How long a guest is waited for of which nobody has said that it will ever tell that it is up. */
const tryMs = 120_000;

async function waitOf(session: Session, options: CreateOptions, vm: Vm, spec: VmSpecInput): Promise<Wait> {
  const timeoutMs = options.timeout ?? defaultGuestTimeoutMs;
  if (options.waitFor !== undefined) return { goal: options.waitFor, timeoutMs, isTry: false };
  if (!options.start) return { goal: 'created', timeoutMs, isTry: false };
  const { goal, isTry } = await bestGoal(session, vm, spec);
  return { goal, isTry, timeoutMs: isTry ? (options.timeout ?? tryMs) : timeoutMs };
}

/** Waits for it; null: it was a try, and in vain. */
async function waitedFor(session: Session, name: string, { goal, timeoutMs, isTry }: Wait): Promise<Vm | null> {
  const { terminal } = session;
  if (isTry)
    terminal.note(
      `The image was imported, so nothing tells whether its guest ${goal === 'ssh' ? 'answers ssh' : 'reports that it is up'}; it is waited for at most ${formatDuration(timeoutMs)}.`,
    );
  try {
    const [vm] = await waitForVms(session, [name], goal, timeoutMs);
    return vm ?? null;
  } catch (failure) {
    if (!isTry || !(failure instanceof LodgeError) || failure.code !== 'timeout') throw failure;
    const said = goal === 'ssh' ? 'not answered ssh' : 'not reported that it is up';
    terminal.note(
      `The guest has ${said} in ${formatDuration(timeoutMs)}. Wait on: lodge vm wait ${name} --for ${goal}`,
    );
    return null;
  }
}

/**
 * What can be waited for: ssh where it will answer and can be reached from here, the guest's own word where it can give
 * one, else that it runs. Of an imported image nobody knows what is in it: whether it does is tried.
 */
async function bestGoal(session: Session, vm: Vm, spec: VmSpecInput): Promise<Pick<Wait, 'goal' | 'isTry'>> {
  const runs = { goal: 'running', isTry: false } as const;
  if (spec.image === undefined) return runs;
  const image = await session.client.image
    .get({ params: { image: spec.image }, query: { project: session.project } })
    .catch((): Image | null => null);
  if (image === null || image.status.kind === 'iso') return runs;
  const isImported = image.spec.source.type !== 'build';
  const hasLogin = spec.cloudInit?.sshKeys !== undefined && spec.cloudInit.sshKeys.length > 0;
  const isBridged = vm.status.nics.some((nic) => nic.hostInterface !== null);
  if ((image.status.hasCloudInit || isImported) && hasLogin && session.isLocal && isBridged)
    return { goal: 'ssh', isTry: !image.status.hasCloudInit };
  // Only an agent can tell that a guest is up.
  if (spec.hasAgentChannel === false || !(image.status.hasAgent || isImported)) return runs;
  return { goal: 'up', isTry: !image.status.hasAgent };
}

function summary(vm: Vm, goal: VmGoal): string {
  const [address] = addressesOf(vm);
  const at = address === undefined ? '' : ` at ${address}`;
  switch (goal) {
    case 'ssh':
      return `VM ${vm.name} is up and answers ssh${at}.`;
    case 'up':
      return `VM ${vm.name} is up${at}.`;
    case 'created':
    case 'running':
    case 'stopped':
      return `VM ${vm.name} is created and ${vm.status.state}${at}.`;
  }
}

function nextSteps(vm: Vm, goal: VmGoal, isInstalling: boolean): string[] {
  if (vm.status.state === 'stopped') return [`  start it:    lodge vm start ${vm.name}`];
  return [
    ...(goal === 'ssh' ? [`  sign in:     lodge vm ssh ${vm.name}`] : []),
    `  its console: lodge vm console ${vm.name}   (Ctrl-] leaves it)`,
    ...(isInstalling ? [`  when it is installed: lodge vm cdrom eject ${vm.name}`] : []),
    `  stop it:     lodge vm stop ${vm.name}`,
  ];
}
