// lodge vm prepare: boots a VM of an image or a template and keeps it, booted, for `lodge vm create --warm`.
import { randomUUID } from 'node:crypto';
import { LodgeError } from '../../api/errors.ts';
import type { Template } from '../../api/template.ts';
import type { Vm } from '../../api/vm.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { fetchImages } from '../noun/image.ts';
import { followTask } from '../output/follow.ts';
import { usageError } from '../usage-error.ts';
import { specFromOptions, type CreateSpecOptions } from './create-spec.ts';
import { parseTemplateName } from './template-name.ts';

export interface PrepareOptions extends Pick<
  CreateSpecOptions,
  'cpus' | 'memory' | 'type' | 'profile' | 'network' | 'kernelArgs'
> {
  name?: string;
  fromImage?: boolean;
  wait: boolean;
}

export async function prepareVm(session: Session, options: PrepareOptions, source: string): Promise<void> {
  const { client, project, terminal } = session;
  const { name, fromImage, wait, ...specOptions } = options;
  const template = fromImage === true ? null : await findTemplate(session, source);
  const given = Object.keys(specOptions).length > 0;
  if (template !== null && (given || name !== undefined))
    throw usageError(`${source} is a template, and has a name and a spec of its own`, {
      hint: `For the image of that name: lodge vm prepare ${source} --from-image`,
    });
  const body =
    template === null
      ? { project, name, spec: await specFromOptions({ ...specOptions, agent: true, image: source }) }
      : { project, template: template.name, version: parseTemplateName(source).version };
  const task = await withSuggestion(session, source, fetchImages, () =>
    client.template.prepare({ body, idempotencyKey: randomUUID() }),
  );
  if (!wait) {
    terminal.line(`${source} is being prepared (task ${task.id}).`);
    terminal.note(`Follow it: lodge task wait ${task.id}`);
    return;
  }
  await followTask(session, task, `prepare ${source}`, { done: 'prepared' });
  const made = await client.template.get({ params: { template: task.target.name }, query: { project } });
  const memory = made.status.versions.findLast((one) => one.memory !== null);
  terminal.line(
    `Template ${made.name}@${memory?.version ?? ''} is ready; it keeps ${memory?.memory?.savedMib ?? 0} MiB of memory.`,
  );
  const option = template === null ? `--image ${source}` : `--template ${made.name}`;
  terminal.note(`  a VM that goes on from it: lodge vm create web1 ${option} --warm`);
}

/** A template that is prepared from one of its versions; null: there is none, or it was itself prepared from an image. */
async function findTemplate(session: Session, source: string): Promise<Template | null> {
  const { client, project } = session;
  try {
    const { name } = parseTemplateName(source);
    const found = await client.template.get({ params: { template: name }, query: { project } });
    return found.status.versions.some((one) => one.memory === null) ? found : null;
  } catch (error) {
    if (error instanceof LodgeError && error.code === 'not_found') return null;
    throw error;
  }
}

/** Says of a VM that was to go on from prepared memory why it was booted instead. */
export async function tellWhyCold({ client, terminal }: Session, vm: Vm): Promise<void> {
  if (vm.status.lineage?.kind === 'warm') return;
  const { items } = await client.event.list({ query: { filter: 'type=vm.started-cold', limit: 100 } });
  const told = items.find(({ subject }) => subject?.id === vm.id);
  if (told) terminal.note(told.message);
}
