// Templates as they are kept: an object each, and beside it for each version what a new VM needs of it and nobody is shown
// (the spec may hold secrets).
//
//   /lodge/templates/ID, /lodge/templates-status/ID   the object
//   /lodge/template-origins/ID/VERSION                spec and layers of a version
import { join } from 'node:path';
import { type Subject } from '../../api/object.ts';
import { type Template, type TemplateStatus } from '../../api/template.ts';
import { type Vm } from '../../api/vm.ts';
import { type Collection } from '../store/collection.ts';
import { type Store } from '../store/store.ts';
import { type SavedMemory } from '../../drivers/driver.ts';
import { type CopiedGuest } from '../vm/fork-copies.ts';
import { type LayerHolder } from '../volume/layer.ts';

/** What VMs that are made of a version begin with. */
export interface TemplateOrigin {
  spec: Vm['spec'];
  disks: Vm['status']['disks'];
  /** Frozen layers by the name of the disk. */
  layers: Record<string, string>;
  /** Of a prepared version: what VMs that go on from its memory need. */
  warm?: WarmOrigin;
}

/** A guest that was saved for others to go on from. */
export interface WarmOrigin {
  memory: SavedMemory;
  /** Of its VM. */
  status: CopiedGuest['status'];
  /** It had first-boot data, which lies beside the memory. */
  hasSeed: boolean;
  /** What it was booted from. */
  imageId: string | null;
  version: number | null;
}

export function templateSubject({ id, name, project }: Pick<Template, 'id' | 'name' | 'project'>): Subject {
  return { kind: 'template', id, name, project };
}

/** Where what the firmware of a version's VM remembered is kept, and its memory. */
export function templateFirmware(
  { templatesDirectory }: { templatesDirectory: string },
  id: string,
  version: number,
): string {
  return join(templatesDirectory, id, String(version));
}

export function initialTemplateStatus(): TemplateStatus {
  return { state: 'pending', reason: 'It is being made.', lastVersion: 1, versions: [] };
}

export function holderOf(templateId: string, version: number): LayerHolder {
  return { kind: 'template', id: `${templateId}@${version}` };
}

export class TemplateRecords {
  readonly collection: Collection<Template>;
  readonly #store: Store;

  constructor(collection: Collection<Template>, store: Store) {
    this.collection = collection;
    this.#store = store;
  }

  async origin(id: string, version: number): Promise<TemplateOrigin | null> {
    const found = await this.#store.get(originKey(id, version));
    return found && (JSON.parse(found.value) as TemplateOrigin);
  }

  async keepOrigin(id: string, version: number, origin: TemplateOrigin): Promise<void> {
    await this.#store.transact({ success: [{ put: originKey(id, version), value: JSON.stringify(origin) }] });
  }

  async forgetOrigin(id: string, version: number): Promise<void> {
    await this.#store.transact({ success: [{ delete: originKey(id, version) }] });
  }
}

function originKey(id: string, version: number): string {
  return `/lodge/template-origins/${id}/${version}`;
}
